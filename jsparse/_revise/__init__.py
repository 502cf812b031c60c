"""Revisions: stored masks that change during training, as an optax transform.

A fixed mask needs no revision: put the rule `Held` on the weights, set the mask with
`jsparse.hold`, and train with `wrt=nnx.Param`.
"""

from jsparse._revise.acdc import ACDC as ACDC
from jsparse._revise.gradual import Gradual as Gradual
from jsparse._revise.revision import Revision as Revision
from jsparse._revise.rigl import RigL as RigL
from jsparse._revise.set import SET as SET
from jsparse._revise.topkast import TopKAST as TopKAST
from jsparse._revise.transform import Revise as Revise
from jsparse._revise.transform import Revised as Revised
from jsparse._revise.transform import revise as revise
from jsparse._revise.usn import USN as USN
