"""Revisions: stored masks that change while training, as an optax transform.

A mask that stays needs none: put the rule `Held` on the weights, give it the mask with
`jsparse.hold`, and train with `wrt=nnx.Param`.
"""

from jsparse.revise.acdc import ACDC as ACDC
from jsparse.revise.gradual import Gradual as Gradual
from jsparse.revise.revision import Revision as Revision
from jsparse.revise.rigl import RigL as RigL
from jsparse.revise.set import SET as SET
from jsparse.revise.topkast import TopKAST as TopKAST
from jsparse.revise.transform import Revise as Revise
from jsparse.revise.transform import Revised as Revised
from jsparse.revise.transform import revise as revise
from jsparse.revise.usn import USN as USN
