"""Rules: which weights count, computed from the weight and a small state at each forward pass.

The rules are `jsparse.Threshold`, `jsparse.Top` and so on; these two names are for writing one.
"""

from jsparse.rules._rule import Rule as Rule
from jsparse.rules._rule import State as State
