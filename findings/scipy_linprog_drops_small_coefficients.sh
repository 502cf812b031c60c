#!/usr/bin/env bash
# scipy.optimize.linprog and milp exceed a budget of memory that is given in GB, and keep it if it is given in bytes.
#
# Guess: the unit of a constraint does not matter, apart from tolerances of 1e-7: both sides are divided by it. If the
#   solver had to change the problem, status, message or slack would tell.
# Versions: scipy 1.17.1, numpy 2.4.6 (with its own HiGHS).
# What happens: HiGHS takes every coefficient of at most 1e-9 as 0, its option small_matrix_value, and says so in its
#   log alone, which is off (disp=False). A weight of 4 bits is 5e-10 GB, so it is free; in TB all weights are. Status
#   0, success True; the slack is that of the changed problem, 0 where the budget is exceeded by half, and the dual
#   price is wrong too.
# Who is hurt: programs that choose densities or bit widths of layers under a budget (sizes in GB, operations in TFLOPs
#   per weight), flows and rates in large units: the answer is optimal for another problem.
# Remedy: scale each row so that its smallest coefficient is near 1, and check A_ub @ x <= b_ub. linprog also hands
#   options={"small_matrix_value": 1e-12} to HiGHS, with a warning that it does not know it.
#
# Output seen (weights of 6 layers kept in bfloat16 or int4 or pruned; budget of 30 % of the bfloat16 model):
#   unit   status  used / budget  slack / budget  in bfloat16  in int4  milp: used / budget
#   bytes  0       1.00           0.00            0.07         0.93     1.00
#   MB     0       1.00           0.00            0.07         0.93     1.00
#   GB     0       1.58           0.00            0.30         0.70     1.58
#   TB     0       3.33           1.00            1.00         0.00     3.33

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from scipy.optimize import LinearConstraint, linprog, milp

sizes = np.array([1e9, 5e8, 2e8, 2e8, 1e8, 5e7])
value = np.array([1.0, 0.9, 1.2, 0.8, 1.1, 1.5])  # of a weight in bfloat16; in int4 it is worth 0.9 of that
cost = -np.concatenate([value, 0.9 * value])
print("unit   status  used / budget  slack / budget  in bfloat16  in int4  milp: used / budget")
used = {}
for name, unit in (("bytes", 1.0), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)):
    memory = np.repeat([2.0, 0.5], 6) / unit
    rows = np.vstack([memory, np.hstack([np.eye(6), np.eye(6)])])
    limits = np.concatenate([[0.3 * 2 * sizes.sum() / unit], sizes])
    linear = linprog(cost, A_ub=rows, b_ub=limits)
    mixed = milp(cost, constraints=LinearConstraint(rows, -np.inf, limits))
    used[name], milp_used = memory @ linear.x / limits[0], memory @ mixed.x / limits[0]
    wide, narrow = linear.x[:6].sum() / sizes.sum(), linear.x[6:].sum() / sizes.sum()
    line = f"{name:<7}{linear.status:<8}{used[name]:<15.2f}{linear.slack[0] / limits[0]:<16.2f}{wide:<13.2f}"
    print(f"{line}{narrow:<9.2f}{milp_used:.2f}")
    assert linear.success and mixed.success and abs(used[name] - milp_used) < 1e-6
assert abs(used["bytes"] - 1) < 1e-6 and abs(used["MB"] - 1) < 1e-6
assert used["GB"] > 1.5 and used["TB"] > 3, "small coefficients count now"
PYTHON
