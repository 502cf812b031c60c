"""The networks that are trained here, and convolutions that are fast on a CPU."""
