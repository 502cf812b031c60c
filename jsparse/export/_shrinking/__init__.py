"""Smaller models: what is dead in the traced computation, and the model without it."""
