"""Revisions: stored masks that change while training, as an optax transform.

A mask that stays needs none: put the rule `Held` on the weights, give it the mask with
`jsparse.hold`, and train with `wrt=nnx.Param`.
"""
