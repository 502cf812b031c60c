"""Benchmarks; each file is run by itself."""
