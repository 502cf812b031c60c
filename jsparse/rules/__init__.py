"""Rules: which weights count, computed from the weight and a small state at each forward pass."""

from jsparse.rules.gibbs import Gibbs as Gibbs
from jsparse.rules.held import Held as Held
from jsparse.rules.keep import Keep as Keep
from jsparse.rules.rule import Rule as Rule
from jsparse.rules.rule import State as State
from jsparse.rules.threshold import Threshold as Threshold
from jsparse.rules.top import Top as Top
