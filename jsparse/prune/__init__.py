"""Pruning before the first step or between whole runs: one method a file."""

from jsparse.prune.choice import by_layer as by_layer
from jsparse.prune.choice import globally as globally
from jsparse.prune.choice import held_parts as held_parts
from jsparse.prune.choice import keep_highest as keep_highest
