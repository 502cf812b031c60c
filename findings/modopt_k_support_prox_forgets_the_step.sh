#!/usr/bin/env bash
# ModOpt's KSupportNorm is the proximity operator for steps of 1 alone: at 0.5 its result is sparser, at 2 denser.
#
# Guess: op(x, extra_factor=step), which is how ModOpt's solvers call a proximity operator, is the operator of beta *
#   step: KSupportNorm(beta=1) with a step of 2 is KSupportNorm(beta=2), as with the other operators.
# Versions: modopt 1.7.2, numpy 2.4.6, scipy 1.17.1.
# What happens: the factor is used to find alpha and to shrink the entries, but not where alpha becomes the shares theta
#   (_op_method calls _compute_theta without it, modopt/opt/proximity.py). Their sum, which should be k, is too small
#   for steps below 1 and too large above. The result does not minimize what a prox minimizes; nothing is raised.
# Who is hurt: ForwardBackward, Condat and the others take steps below 1 over the Lipschitz constant: they end at
#   another, sparser vector than that of the k-support norm, and at one that depends on the step.
# Remedy: KSupportNorm(beta=beta * step) and a step of 1, or an operator that makes one for each call.
#
# Output seen (k=2, beta=1; the objective is that of the prox, by the definition of the norm):
#   step   op(x, step)                    objective   beta=step, op(x)               objective
#   0.5    3.24, 0.71, 0.00, 0.00, 0.00   10.179      3.33, 1.70, 0.70, 0.20, 0.00   8.517
#   1.0    2.50, 1.33, 0.33, 0.00, 0.00   11.667      2.50, 1.33, 0.33, 0.00, 0.00   11.667
#   2.0    1.67, 1.00, 0.67, 0.30, 0.00   15.890      1.67, 1.00, 0.00, 0.00, 0.00   14.583

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet modopt==1.7.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from modopt.opt.proximity import KSupportNorm

x, k = np.array([5.0, 3.0, 2.0, 1.5, 0.5]), 2


def squared_norm(z):
    """The squared k-support norm (Argyriou et al., arXiv:1204.5043, proposition 2.1)."""
    sizes = np.sort(abs(z))[::-1]
    for r in range(k):
        rest = sizes[k - r - 1 :].sum()
        if r == k - 1 or sizes[k - r - 2] > rest / (r + 1) >= sizes[k - r - 1]:
            return (sizes[: k - r - 1] ** 2).sum() + rest**2 / (r + 1)


def objective(z, step):
    return ((z - x) ** 2).sum() / 2 + step * squared_norm(z) / 2


print("step   op(x, step)                    objective   beta=step, op(x)               objective")
found = {}
for step in (0.5, 1.0, 2.0):
    given = KSupportNorm(beta=1.0, k_value=k).op(x, extra_factor=step)
    right = KSupportNorm(beta=step, k_value=k).op(x)
    found[step] = objective(given, step), objective(right, step)
    texts = [", ".join(f"{value:.2f}" for value in z) for z in (given, right)]
    print(f"{step:<7}{texts[0]:<31}{found[step][0]:<12.3f}{texts[1]:<31}{found[step][1]:.3f}")
assert found[1.0][0] == found[1.0][1]
assert all(found[step][0] > found[step][1] + 0.1 for step in (0.5, 2.0)), "the step counts now"
PYTHON
