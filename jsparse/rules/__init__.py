"""Rules: which weights count, computed from the weight and a small state at each forward pass."""

from jsparse.rules.gibbs import Gibbs as Gibbs
from jsparse.rules.hard_concrete import HardConcrete as HardConcrete
from jsparse.rules.held import Held as Held
from jsparse.rules.keep import Keep as Keep
from jsparse.rules.movement import Movement as Movement
from jsparse.rules.movement import SoftMovement as SoftMovement
from jsparse.rules.powerpropagation import Powerpropagation as Powerpropagation
from jsparse.rules.rule import Rule as Rule
from jsparse.rules.rule import State as State
from jsparse.rules.soft_threshold import SoftThreshold as SoftThreshold
from jsparse.rules.sr_ste import SRSTE as SRSTE
from jsparse.rules.threshold import Threshold as Threshold
from jsparse.rules.top import Top as Top
