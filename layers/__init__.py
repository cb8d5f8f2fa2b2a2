"""Single layers: what runs a part of a checkpoint."""
