#!/usr/bin/env bash
# PyProximal's Huber sends 1.00 to 0.50 and 1.01 to 0.01: what it calls the prox of a convex function falls.
#
# Guess: Huber(alpha).prox(x, tau) is the z that minimizes (z - x)^2 / 2 + tau * Huber(z). For a convex function it
#   rises with x, by no more than x does, so proximal gradient steps converge.
# Versions: pyproximal 0.13.0, pylops 2.8.0, numpy 2.4.6.
# What happens: inputs up to alpha are shrunk by 1 / (1 + tau / alpha), those above it by tau (Huber.prox in
#   pyproximal/proximal/Huber.py). The border between the cases is at alpha + tau, where both agree; between alpha and
#   alpha + tau the result is wrong, and it jumps down at alpha, by tau * tau / (alpha + tau). A comment in the code
#   has the right formula, "commented as it does not provide the same result". HuberCircular, for whole vectors, is
#   right.
# Who is hurt: robust fits by Huber: residuals just above alpha are taken for smaller than those just below, and solvers
#   jump between the two sides.
# Remedy: x * (1 - tau / np.maximum(abs(x), alpha + tau)).
#
# Output seen (alpha=1, tau=1):
#   x       prox    objective   minimizer   objective
#   0.50    0.25    0.062       0.25        0.062
#   1.00    0.50    0.250       0.50        0.250
#   1.01    0.01    0.500       0.51        0.255
#   1.90    0.90    0.905       0.95        0.902
#   2.50    1.50    1.500       1.50        1.500

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyproximal==0.13.0 pylops==2.8.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from pyproximal import Huber

alpha = tau = 1.0
huber = Huber(alpha)
grid = np.linspace(-3, 3, 60001)
print("x       prox    objective   minimizer   objective")
given = {}
for x in (0.5, 1.0, 1.01, 1.9, 2.5):
    given[x] = float(huber.prox(np.array([x]), tau)[0])

    def objective(z):
        return (z - x) ** 2 / 2 + tau * huber(np.array([z]))

    best = min(grid, key=objective)
    numbers = given[x], objective(given[x]), best, objective(best)
    print(f"{x:<8.2f}{numbers[0]:<8.2f}{numbers[1]:<12.3f}{numbers[2]:<12.2f}{numbers[3]:.3f}")
    if x in (0.5, 1.0, 2.5):
        assert abs(given[x] - best) < 1e-3
    else:
        assert numbers[1] > numbers[3] + 1e-4, "the prox is the minimizer now"
assert given[1.01] < given[1.0] - 0.4, "the prox rises now"
PYTHON
