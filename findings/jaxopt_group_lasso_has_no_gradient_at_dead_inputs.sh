#!/usr/bin/env bash
# The gradient of a group lasso with respect to its penalty is NaN in jaxopt if one input is always 0.
#
# Guess: an input that is always 0 has weights of 0 whatever the penalty is, so it adds 0 to the gradient; a group that
#   the penalty has removed does so, and is differentiated without trouble.
# Versions: jaxopt 0.8.5, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on a CPU.
# What happens: prox_group_lasso is right at 0, but its derivative there is that of a norm at 0, NaN (the branch that
#   gives 0 is chosen by where, which does not keep the NaN of the other one out of the gradient). For a group that the
#   penalty removes the prox is taken at minus its gradient, which is not 0; for a dead input it is taken at 0 itself.
#   One such NaN makes the whole gradient NaN, with implicit_diff=True, the default. The weights are right.
# Who is hurt: penalties tuned by gradient on data with dead inputs: the corner pixels of MNIST, rare words, units that
#   a ReLU or a mask holds at 0. The first step of the penalty makes it NaN.
# Remedy: leave dead inputs out, or add a tiny constant inside the norm in a prox of one's own.
#
# Output seen (norms of 6 groups, and the gradient of the squared weights by the penalty):
#   all inputs live: 1.3345, 2.6909, 0.0000, 0.0000, 0.6351, 0.0571; gradient -10.5362
#   input 4 dead:    1.3347, 2.6909, 0.0000, 0.0000, 0.6353, 0.0572; gradient nan

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jaxopt==0.8.5 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
from jaxopt import ProximalGradient, prox

rng = np.random.default_rng(0)
inputs = rng.normal(size=(40, 6))
target = inputs @ np.array([1, -2, 0, 0, 0.5, 0.1])
targets = jnp.array(np.stack([target, -target], 1))


def groups(weights, penalty, scaling=1.0):
    return jax.vmap(lambda group: prox.prox_group_lasso(group, penalty, scaling))(weights)


def size(penalty, inputs):
    def loss(weights):
        return jnp.mean((inputs @ weights - targets) ** 2)

    solver = ProximalGradient(loss, groups, maxiter=300, tol=1e-6)
    weights = solver.run(jnp.zeros((6, 2)), hyperparams_prox=penalty).params
    return (weights**2).sum(), jnp.linalg.norm(weights, axis=1)


found = {}
for text, dead in (("all inputs live:", False), ("input 4 dead:", True)):
    data = inputs.copy()
    data[:, 3] *= not dead
    gradient, norms = jax.grad(size, has_aux=True)(0.1, jnp.array(data))
    found[dead] = float(gradient), norms
    print(f"{text:<16} {', '.join(f'{norm:.4f}' for norm in norms)}; gradient {gradient:.4f}")
for _, norms in found.values():
    assert (norms[2:4] == 0).all() and (norms[:2] > 1).all()
assert abs(found[False][0] + 10.5) < 0.2
assert np.isnan(found[True][0]), "the gradient is a number now"
PYTHON
