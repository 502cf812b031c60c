#!/usr/bin/env bash
# lineax.Diagonal() solves a diagonal system of ten million entries between 0.01 and 1 with zeros only.
#
# Guess: solving by a diagonal is an elementwise division, "simply ... x = b / a" as its docstring says; what may be
#   special is a zero on the diagonal, which the solver "can handle".
# Versions: lineax 0.1.1, jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on a CPU.
# What happens: entries of at most rcond times the largest count as zeros, and their unknowns are set to 0. The rcond is
#   2 * eps * size (resolve_rcond, lineax/_misc.py), a bound for the singular values of dense matrices: in float32 it is
#   0.24 for a million entries and 2.4 for ten million, at which even the largest counts as zero. This is so with
#   well_posed=False, the default of Diagonal(), and in AutoLinearSolver(well_posed=None). throw=True raises nothing.
# Who is hurt: a Hessian's or Fisher's diagonal over a model's parameters, a preconditioner, a Gauss-Newton step: more
#   and more parameters stand still as the model grows, those with the smallest entries and so largest steps first.
# Remedy: lineax.Diagonal(well_posed=True), Diagonal(rcond=1e-7), or b / a.
#
# Output seen (diagonal evenly spaced from 0.01 to 1, right-hand side of ones; unknowns set to 0):
#   entries     Diagonal()  Auto(well_posed=None)  Diagonal(well_posed=True)
#   10000       0.00        0.00                   0.00
#   1000000     0.23        0.23                   0.00
#   10000000    1.00        1.00                   0.00

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet lineax==0.1.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import lineax

solvers = {
    "Diagonal()": lineax.Diagonal(),
    "Auto(well_posed=None)": lineax.AutoLinearSolver(well_posed=None),
    "Diagonal(well_posed=True)": lineax.Diagonal(well_posed=True),
}
print("entries     " + "  ".join(solvers))
found = {}
for size in (10_000, 1_000_000, 10_000_000):
    diagonal = jnp.linspace(0.01, 1, size)
    for name, solver in solvers.items():
        solution = lineax.linear_solve(lineax.DiagonalLinearOperator(diagonal), jnp.ones(size), solver).value
        found[size, name] = float(jnp.mean(solution == 0))
        if name == "Diagonal(well_posed=True)":
            assert jnp.allclose(solution, 1 / diagonal, rtol=1e-6)
    print(f"{size:<10}  " + "  ".join(f"{found[size, name]:<{len(name)}.2f}" for name in solvers).rstrip())
for name in ("Diagonal()", "Auto(well_posed=None)"):
    assert found[10_000, name] == 0
    assert found[1_000_000, name] > 0.05 and found[10_000_000, name] == 1, "small entries are divided by now"
assert all(found[size, "Diagonal(well_posed=True)"] == 0 for size in (10_000, 1_000_000, 10_000_000))
PYTHON
