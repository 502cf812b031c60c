#!/usr/bin/env bash
# PyProximal's L0 cuts at tau instead of sqrt(2 tau): with a step of 0.01 it keeps 752 entries where 43 are best.
#
# Guess: L0(sigma).prox(x, tau) minimizes (z - x)^2 / 2 + tau * sigma * [z != 0], as a prox does: an entry is kept if it
#   is above sqrt(2 tau sigma), as in PyLops, by the same authors, and in the textbooks.
# Versions: pyproximal 0.13.0, pylops 2.8.0, numpy 2.4.6.
# What happens: the threshold is tau * sigma (_hardthreshold in pyproximal/proximal/L0.py; its documentation has the
#   formula and calls it the prox). The two agree at tau * sigma = 2 alone. A halved step halves the threshold, where
#   the right one shrinks by 1.4, so sigma means another penalty for each step size. L0(sigma)(x) is a count without
#   sigma. L1, SCAD, Log, Geman and ETP give the minimum, and so does L0Ball.
# Who is hurt: proximal gradient and ADMM with L0: far denser solutions than the penalty asks for at the small steps
#   that a Lipschitz constant gives, too sparse ones above 2, and a line search that changes the problem.
# Remedy: L0(lambda) with sigma = sqrt(2 * sigma * tau) / tau for a fixed tau, or a prox of one's own.
#
# Output seen (1000 entries, 50 of them of size 1, the others of size 0.03; sigma=1):
#   tau     kept   kept at the minimum   objective   its minimum
#   0.01    752    43                    7.52        0.89
#   1.0     15     6                     20.03       18.01
#   2.0     1      1                     20.88       20.88

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyproximal==0.13.0 pylops==2.8.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from pyproximal import L0

rng = np.random.default_rng(0)
noisy = rng.normal(size=1000) * np.where(np.arange(1000) < 50, 1, 0.03)


def objective(z, tau):
    return ((z - noisy) ** 2).sum() / 2 + tau * (z != 0).sum()


print("tau     kept   kept at the minimum   objective   its minimum")
found = {}
for tau in (0.01, 1.0, 2.0):
    given = L0(sigma=1.0).prox(noisy, tau)
    best = np.where(noisy**2 / 2 > tau, noisy, 0)
    found[tau] = (given != 0).sum(), (best != 0).sum()
    values = objective(given, tau), objective(best, tau)
    print(f"{tau:<8}{found[tau][0]:<7}{found[tau][1]:<22}{values[0]:<12.2f}{values[1]:.2f}")
    assert values[1] <= values[0]
assert found[2.0][0] == found[2.0][1]
assert found[0.01][0] > 5 * found[0.01][1], "the threshold is the square root now"
PYTHON
