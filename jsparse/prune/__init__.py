"""Pruning before the first step or between whole runs: one method a file."""

from jsparse.prune.choice import by_layer as by_layer
from jsparse.prune.choice import globally as globally
from jsparse.prune.choice import held_parts as held_parts
from jsparse.prune.choice import keep_highest as keep_highest
from jsparse.prune.grasp import grasp as grasp
from jsparse.prune.magnitude import magnitude as magnitude
from jsparse.prune.random import random as random
from jsparse.prune.snip import snip as snip
from jsparse.prune.synflow import synflow as synflow
