"""The shared core: checkpoints known from their headers, and everything that loads them."""
