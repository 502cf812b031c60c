"""Benchmarks; each file runs by itself."""
