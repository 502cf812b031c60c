"""Pruning before the first step or between whole runs: one method a file."""

from jsparse.prune.activity import AnyUnit as AnyUnit
from jsparse.prune.activity import APoZ as APoZ
from jsparse.prune.activity import Maximum as Maximum
from jsparse.prune.activity import Minimum as Minimum
from jsparse.prune.activity import after as after
from jsparse.prune.choice import by_layer as by_layer
from jsparse.prune.choice import globally as globally
from jsparse.prune.choice import held_parts as held_parts
from jsparse.prune.choice import keep_highest as keep_highest
from jsparse.prune.dropnet import drop_units as drop_units
from jsparse.prune.dropnet import dropnet as dropnet
from jsparse.prune.folder import Folder as Folder
from jsparse.prune.folder import Nowhere as Nowhere
from jsparse.prune.lottery import FineTune as FineTune
from jsparse.prune.lottery import Reinitialise as Reinitialise
from jsparse.prune.lottery import RewindRate as RewindRate
from jsparse.prune.lottery import lottery as lottery
from jsparse.prune.lottery import magnitudes as magnitudes
from jsparse.prune.rounds import Restart as Restart
from jsparse.prune.rounds import Rewind as Rewind
from jsparse.prune.rounds import Round as Round
from jsparse.prune.rounds import each_round as each_round
from jsparse.prune.rounds import in_rounds as in_rounds
