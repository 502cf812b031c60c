"""What a model costs: functions of a model, for `jsparse.prune.search`, `units` and alone."""

from jsparse.prune._costs import bytes as bytes
from jsparse.prune._costs import flops as flops
from jsparse.prune._costs import latency as latency
from jsparse.prune._costs import parameters as parameters
from jsparse.prune._costs import tiles as tiles
