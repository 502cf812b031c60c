"""Pruning before the first step or between whole runs: one method a file."""

from jsparse.prune.choice import by_layer as by_layer
from jsparse.prune.choice import globally as globally
from jsparse.prune.choice import held_parts as held_parts
from jsparse.prune.choice import keep_highest as keep_highest
from jsparse.prune.folder import Folder as Folder
from jsparse.prune.folder import Nowhere as Nowhere
from jsparse.prune.grasp import grasp as grasp
from jsparse.prune.grasp import grasp_scores as grasp_scores
from jsparse.prune.lottery import FineTune as FineTune
from jsparse.prune.lottery import Reinitialise as Reinitialise
from jsparse.prune.lottery import RewindRate as RewindRate
from jsparse.prune.lottery import lottery as lottery
from jsparse.prune.lottery import magnitudes as magnitudes
from jsparse.prune.magnitude import magnitude as magnitude
from jsparse.prune.random import random as random
from jsparse.prune.rounds import Restart as Restart
from jsparse.prune.rounds import Rewind as Rewind
from jsparse.prune.rounds import Round as Round
from jsparse.prune.rounds import each_round as each_round
from jsparse.prune.rounds import in_rounds as in_rounds
from jsparse.prune.snip import snip as snip
from jsparse.prune.snip import snip_scores as snip_scores
from jsparse.prune.sparsegpt import sparsegpt as sparsegpt
from jsparse.prune.synflow import synflow as synflow
from jsparse.prune.synflow import synflow_scores as synflow_scores
from jsparse.prune.wanda import wanda as wanda
