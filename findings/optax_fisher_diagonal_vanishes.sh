#!/usr/bin/env bash
# optax's fisher_diag is 0 where training has converged, for every weight, however much the loss depends on it.
#
# Guess: the diagonal of the observed Fisher information over a batch is the mean of the squared gradients of its
#   examples, an estimate of the curvature: at a minimum of the negative log-likelihood it is near hessian_diag.
# Versions: optax 0.2.8, jax 0.10.2, numpy 2.4.6, on a CPU (optax calls the function deprecated and gives no reason).
# What happens: it squares the gradient of the whole batch, jnp.square(jax.grad(loss)(params, inputs, targets)) in
#   optax/second_order/_deprecated.py. Gradients of examples cancel before they are squared: at the minimum the sum is
#   0, so what is returned is rounding error, and before it the distance to the minimum. For a batch of 1 it is right,
#   and a test on one example passes. Its docstring promises "the product to the Hessian".
# Who is hurt: pruning by w^2 F (optimal brain damage with the Fisher diagonal), elastic weight consolidation and
#   Laplace posteriors, which are all taken at the end of training: an input that means nothing ranks as high as one
#   that carries the prediction.
# Remedy: jnp.square(jax.vmap(jax.grad(loss), (None, 0, 0))(params, inputs[:, None], targets[:, None])).mean(0).
#
# Output seen (logistic regression at its minimum, 4,000 examples, inputs of four scales):
#                       scale 3.0     scale 1.0     scale 0.3     scale 0.1
#   fisher_diag         2.5e-17       4.6e-23       4.2e-21       7.8e-24
#   mean of squares     0.31          0.11          0.0099        0.0011
#   hessian_diag        0.32          0.11          0.0094        0.0011

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import second_order

scales = jnp.array([3.0, 1.0, 0.3, 0.1])
x = jax.random.normal(jax.random.key(0), (4000, 4)) * scales
y = jax.random.bernoulli(jax.random.key(1), jax.nn.sigmoid(x @ jnp.ones(4))).astype(float)


def loss(w, x, y):
    return optax.sigmoid_binary_cross_entropy(x @ w, y).mean()


w = jnp.zeros(4)
for _ in range(30):
    w = w - jnp.linalg.solve(jax.hessian(loss)(w, x, y), jax.grad(loss)(w, x, y))

gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(w, x[:, None], y[:, None])
found = {
    "fisher_diag": second_order.fisher_diag(loss, w, x, y),
    "mean of squares": jnp.square(gradients).mean(0),
    "hessian_diag": second_order.hessian_diag(loss, w, x, y),
}
print(f"{'':<20}{'    '.join(f'scale {s:<4.1f}' for s in scales.tolist())}")
for name, diagonal in found.items():
    print(f"{name:<20}{'    '.join(f'{d:<10.2g}' for d in diagonal.tolist())}")

assert (found["fisher_diag"] < 1e-10).all(), "fisher_diag does not vanish any more"
assert np.allclose(found["mean of squares"], found["hessian_diag"], rtol=0.2)
one = second_order.fisher_diag(loss, w, x[:1], y[:1])
assert np.allclose(one, jnp.square(gradients[0]), rtol=1e-4), "one example is another thing now"
PYTHON
