#!/usr/bin/env bash
# From a concentration of 89 on the density of distrax's VonMises is 0 everywhere, and its gradient NaN.
#
# Guess: a von Mises distribution of high concentration is nearly a normal one of variance 1 / concentration, and its
#   log-density is an ordinary number, as in SciPy: 0.73 at an angle of 0.1 for a concentration of 200.
# Versions: distrax 0.1.9, jax 0.10.2, jaxlib 0.10.2, scipy 1.17.1, numpy 2.4.6, on a CPU.
# What happens: log_prob takes the log of the Bessel function i0, which grows as exp(concentration) and is inf in
#   float32, where log(i0e) + concentration would stay finite. prob, entropy, cdf, variance and KL divergence use
#   the scaled i0e and are right. What was sampled has log-probability -inf under its own distribution.
# Who is hurt: models of angles and policies over directions that become sure: 89 is a standard deviation of 6 degrees.
#   As the fit gets better the loss becomes inf, and the next step makes all weights NaN.
# Remedy: k * (cos(x - loc) - 1) - log(2 pi i0e(k)), or bound the concentration below 88.
#
# Output seen (angle 0.1):
#   concentration  log_prob   SciPy      remedy     gradient   SciPy's    entropy   SciPy's
#   10             0.1692     0.1692     0.1692     0.0464     0.0464     0.2949    0.2949
#   80             0.8708     0.8708     0.8708     0.0013     0.0013     -0.7689   -0.7689
#   95             -inf       0.8821     0.8821     nan        0.0003     -0.8554   -0.8553
#   200            -inf       0.7304     0.7304     nan        -0.0025    -1.2290   -1.2290
#   samples of concentration 200 with log_prob -inf: 1000 of 1000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet distrax==0.1.9 jax==0.10.2 jaxlib==0.10.2 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import distrax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

names = ("concentration", "log_prob", "SciPy", "remedy", "gradient", "SciPy's", "entropy", "SciPy's")
widths = (15, 11, 11, 11, 11, 11, 10, 0)
print("".join(f"{name:<{width}}" for name, width in zip(names, widths)))
angle, found = 0.1, {}
for k in (10.0, 80.0, 95.0, 200.0):
    value, slope = jax.value_and_grad(lambda c: distrax.VonMises(0.0, c).log_prob(jnp.float32(angle)))(k)
    exact = scipy.stats.vonmises(k).logpdf(angle)
    step = 1e-3
    change = scipy.stats.vonmises(k + step).logpdf(angle) - scipy.stats.vonmises(k - step).logpdf(angle)
    remedy = k * (jnp.cos(angle) - 1) - jnp.log(2 * jnp.pi * jax.scipy.special.i0e(k))
    entropy = float(distrax.VonMises(0.0, k).entropy()), scipy.stats.vonmises(k).entropy()
    row = float(value), exact, float(remedy), float(slope), change / (2 * step), *entropy
    cells = [f"{k:g}"] + [f"{one:.4f}" for one in row]
    print("".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)))
    density = float(distrax.VonMises(0.0, k).prob(jnp.float32(angle)))
    assert abs(density / np.exp(exact) - 1) < 1e-3
    assert abs(remedy - exact) < 1e-3 and abs(entropy[0] - entropy[1]) < 1e-3
    found[k] = row
sure = distrax.VonMises(0.0, 200.0)
drawn = sure.sample(seed=jax.random.key(0), sample_shape=(1000,))
lost = int((sure.log_prob(drawn) == -jnp.inf).sum())
print(f"samples of concentration 200 with log_prob -inf: {lost} of {len(drawn)}")
assert abs(float(drawn.std()) * 200**0.5 - 1) < 0.1
assert abs(found[80.0][0] - found[80.0][1]) < 1e-3
assert found[200.0][0] == -np.inf and np.isnan(found[200.0][3]) and lost == 1000, "high concentrations work now"
PYTHON
