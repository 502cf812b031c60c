"""Revisions: stored masks that change during training, as an optax transform.

A fixed mask needs no revision: put the rule `Held` on the weights, set the mask with
`jsparse.hold`, and train with `wrt=nnx.Param`.
"""
