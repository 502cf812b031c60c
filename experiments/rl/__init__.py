"""Agents that learn to act, with networks that any rule or revision can make sparse.

An agent's file reads from top to bottom. In external simulators acting uses NumPy, on a copy of the
weights, so that a simulator never waits for a device; updates are compiled, many in a scan. In our
own environments acting is compiled with them.
"""
