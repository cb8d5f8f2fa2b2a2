"""Quantizing one weight matrix on the CPU: the bits that bitsandbytes and hqq make, several times sooner."""
