"""Agents that learn to act, with networks that any rule or revision makes sparse.

An agent's file reads from top to bottom. Acting is NumPy, on a copy of the weights, so that a
simulator never waits for a device; updates are compiled, many in a scan.
"""
