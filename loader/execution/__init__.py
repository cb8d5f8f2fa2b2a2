"""Turning a plan into a model: the skeleton, the files' bytes as tensors, and the moments at which units are read."""
