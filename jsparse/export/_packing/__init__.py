"""Layers that hold only the kept weights, and the kernels that multiply by them."""
