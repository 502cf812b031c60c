#!/usr/bin/env bash
# Clarabel reports "Solved" for another problem if a square matrix comes in CSR: it solves with the transpose.
#
# Guess: the solver takes SciPy's sparse matrices, so either any format is converted, as OSQP and SCS do with a warning,
#   or a format that is not CSC is refused.
# Versions: clarabel 0.11.1, osqp 1.1.3, scipy 1.17.1, numpy 2.4.6.
# What happens: the binding asks the object for shape, indptr, indices and data and never for its format. The arrays of
#   a CSR matrix are those of the transpose in CSC, which is as valid where the matrix is square: status "Solved",
#   residuals near 0, and an x that breaks the constraints as they were meant. It also reads the triangle of P that is
#   above the diagonal, so np.triu(P) in CSR loses all products of two variables. Other shapes fail in an assertion.
# Who is hurt: most matrices of SciPy are CSR, among them products, sums and vstack(...) of CSR parts, and a network's
#   layer, a dynamics matrix or a difference operator is often square. A symmetric P in full is right in both formats,
#   which hides it.
# Remedy: scipy.sparse.csc_array(A) at the call.
#
# Output seen (A x = b with x = 1, 2, 3, 4, and a quadratic objective; largest error of x):
#   solver    format of A    status    error
#   Clarabel  csc_array      Solved    0.0000
#   Clarabel  csr_array      Solved    5.6111
#   OSQP      csr_array      solved    0.0000
#   minimum of 2 x0^2 + x0 x1 + x1^2 for x0 + x1 = 1, by upper triangle of P
#   Clarabel  csc_array      Solved    0.25 0.75
#   Clarabel  csr_array      Solved    0.33 0.67

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet clarabel==0.11.1 osqp==1.1.3 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import clarabel
import numpy as np
import osqp
from scipy.sparse import csc_array, csc_matrix, csr_array, csr_matrix

rng = np.random.default_rng(0)
A = np.triu(rng.integers(1, 4, (4, 4)).astype(float))
x = np.arange(1.0, 5)
b = A @ x


def by_clarabel(P, A, b):
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    solver = clarabel.DefaultSolver(P, np.zeros(len(P.indptr) - 1), A, b, [clarabel.ZeroConeT(len(b))], settings)
    solution = solver.solve()
    return str(solution.status), np.array(solution.x)


def by_osqp(P, A, b):
    solver = osqp.OSQP()
    solver.setup(P, np.zeros(len(b)), A, b, b, verbose=False, eps_abs=1e-9, eps_rel=1e-9, max_iter=100000)
    result = solver.solve()
    return result.info.status, result.x


print("solver    format of A    status    error")
error = {}
for name, solve, form in (
    ("Clarabel", by_clarabel, csc_array),
    ("Clarabel", by_clarabel, csr_array),
    ("OSQP", by_osqp, csr_array),
):
    identity = (csc_matrix if name == "OSQP" else csc_array)(np.eye(4))
    status, found = solve(identity, (csr_matrix if name == "OSQP" else form)(A), b)
    error[name, form] = np.abs(found - x).max()
    print(f"{name:<10}{form.__name__:<15}{status:<10}{error[name, form]:.4f}")
    assert status.lower() == "solved"
    if form is csr_array and name == "Clarabel":
        assert np.allclose(A.T @ found, b), "the transpose is not solved for now"

print("minimum of 2 x0^2 + x0 x1 + x1^2 for x0 + x1 = 1, by upper triangle of P")
triangle = np.triu([[4.0, 1.0], [1.0, 2.0]])
for form, right in ((csc_array, [0.25, 0.75]), (csr_array, [1 / 3, 2 / 3])):
    status, found = by_clarabel(form(triangle), csc_array(np.ones((1, 2))), np.ones(1))
    print(f"Clarabel  {form.__name__:<15}{status:<10}{found[0]:.2f} {found[1]:.2f}")
    assert status == "Solved" and np.allclose(found, right, atol=1e-3), "CSR is read as CSR now"
assert error["Clarabel", csc_array] < 1e-4 and error["OSQP", csr_array] < 1e-4
assert error["Clarabel", csr_array] > 1, "CSR is read as CSR now"
PYTHON
