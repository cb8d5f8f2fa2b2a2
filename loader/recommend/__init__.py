"""Which way to load a checkpoint on a machine, and the memory that it will take: from headers, without torch."""
