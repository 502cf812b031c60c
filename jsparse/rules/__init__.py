"""Rules: masks computed from the weight and a small state at each forward pass.

The rules themselves are `jsparse.Threshold`, `jsparse.Top` and so on; the two names here are for
writing a new one.
"""

from jsparse.rules._rule import Rule as Rule
from jsparse.rules._rule import State as State
