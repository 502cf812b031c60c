"""Rules on Linen params and any other tree of arrays."""

from jsparse._tree import Plan as Plan
from jsparse._tree import States as States
from jsparse._tree import advance as advance
from jsparse._tree import apply as apply
from jsparse._tree import cost as cost
from jsparse._tree import init as init
from jsparse._tree import mask as mask
from jsparse._tree import plan as plan
from jsparse._tree import settled as settled
