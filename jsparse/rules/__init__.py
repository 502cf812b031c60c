"""Rules: masks computed from the weight and a small state at each forward pass."""

from jsparse.rules._gibbs import Gibbs as Gibbs
from jsparse.rules._hard_concrete import HardConcrete as HardConcrete
from jsparse.rules._held import Held as Held
from jsparse.rules._keep import Keep as Keep
from jsparse.rules._movement import Movement as Movement
from jsparse.rules._movement import SoftMovement as SoftMovement
from jsparse.rules._powerpropagation import Powerpropagation as Powerpropagation
from jsparse.rules._rule import Rule as Rule
from jsparse.rules._rule import State as State
from jsparse.rules._soft_threshold import SoftThreshold as SoftThreshold
from jsparse.rules._sr_ste import SRSTE as SRSTE
from jsparse.rules._threshold import Threshold as Threshold
from jsparse.rules._top import Top as Top
