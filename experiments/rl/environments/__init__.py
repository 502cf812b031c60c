"""Environments of agents, one a file: small, and exact where they can be."""
