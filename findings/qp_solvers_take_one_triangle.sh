#!/usr/bin/env bash
# OSQP, SCS and PIQP read the upper half of the quadratic term, HiGHS the lower: the wrong half is "solved" too.
#
# Guess: P is a symmetric matrix; where a half suffices the solver says which, and another half is refused or, as with
#   eigh and its argument UPLO, the choice is the caller's. qpsolvers, one interface to all, gives one answer.
# Versions: osqp 1.1.3, scs 3.3.1, piqp 0.7.0, highspy 1.16.0, qpsolvers 4.13.0, scipy 1.17.1, numpy 2.4.6.
# What happens: OSQP, SCS and PIQP (dense and sparse) take the part above the diagonal and never look below it, HiGHS in
#   qpsolvers (it hands the arrays on as "triangular") the part below. Given a Cholesky-like lower half, the first three
#   solve for the diagonal alone, HiGHS does so for an upper half; all report success with residuals near 0. A P that is
#   not symmetric, such as 2 M for x' M x, loses one side in the same way. PIQP and SCS document an upper triangle.
# Who is hurt: code that stores one half to save memory (tril is LAPACK's and Cholesky's habit), and a change of the
#   solver="..." argument, after which a half that was right is wrong. A full symmetric P is right in all.
# Remedy: pass P + P.T - diag(P) in full, and check the gradient P x + q + A' y with the matrix that was meant.
#
# Output seen (minimum of 2 x0^2 + x0 x1 + x1^2 for x0 + x1 = 1, which is at 0.25 0.75; by the half of P that is given):
#   solver                 full        upper       lower
#   OSQP                   0.25 0.75   0.25 0.75   0.33 0.67
#   SCS                    0.25 0.75   0.25 0.75   0.33 0.67
#   PIQP                   0.25 0.75   0.25 0.75   0.33 0.67
#   PIQP, dense            0.25 0.75   0.25 0.75   0.33 0.67
#   HiGHS, by qpsolvers    0.25 0.75   0.33 0.67   0.25 0.75

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet osqp==1.1.3 scs==3.3.1 piqp==0.7.0 highspy==1.16.0 qpsolvers==4.13.0 \
    scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | sed '/^Running HiGHS/d; /^Includes third/d'
import numpy as np
import osqp
import piqp
import qpsolvers
import scs
from scipy.sparse import csc_matrix

P = np.array([[4.0, 1.0], [1.0, 2.0]])
A, b = np.ones((1, 2)), np.ones(1)


def by_osqp(P):
    solver = osqp.OSQP()
    solver.setup(csc_matrix(P), np.zeros(2), csc_matrix(A), b, b, verbose=False, eps_abs=1e-9, eps_rel=1e-9)
    result = solver.solve()
    return result.info.status, result.x


def by_scs(P):
    data = {"P": csc_matrix(P), "A": csc_matrix(A), "b": b, "c": np.zeros(2)}
    result = scs.SCS(data, {"z": 1}, verbose=False, eps_abs=1e-9, eps_rel=1e-9).solve()
    return result["info"]["status"], result["x"]


def by_piqp(P):
    solver = piqp.SparseSolver()
    solver.setup(csc_matrix(P), np.zeros(2), csc_matrix(A), b)
    return str(solver.solve()), solver.result.x


def by_piqp_dense(P):
    solver = piqp.DenseSolver()
    solver.setup(P, np.zeros(2), A, b)
    return str(solver.solve()), solver.result.x


def by_highs(P):
    problem = qpsolvers.Problem(csc_matrix(P), np.zeros(2), A=csc_matrix(A), b=b)
    solution = qpsolvers.solve_problem(problem, solver="highs")
    return "solved" if solution.found else "failed", solution.x


solvers = {
    "OSQP": by_osqp,
    "SCS": by_scs,
    "PIQP": by_piqp,
    "PIQP, dense": by_piqp_dense,
    "HiGHS, by qpsolvers": by_highs,
}
halves = {"full": P, "upper": np.triu(P), "lower": np.tril(P)}
rows, found = [], {}
for name, solve in solvers.items():
    for half, matrix in halves.items():
        status, x = solve(matrix)
        assert "solved" in status.lower(), (name, half, status)
        found[name, half] = x
    rows.append(f"{name:<23}" + "   ".join("{:.2f} {:.2f}".format(*found[name, half]) for half in halves))
print(f"{'solver':<23}full        upper       lower")
print("\n".join(rows))
right, diagonal = [0.25, 0.75], [1 / 3, 2 / 3]
for (name, half), x in found.items():
    lost = half == ("upper" if name.startswith("HiGHS") else "lower")
    assert np.allclose(x, diagonal if lost else right, atol=1e-3), f"{name} reads a {half} P otherwise now"
PYTHON
