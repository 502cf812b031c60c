#!/usr/bin/env bash
# sparse_dot_topn's "n largest of each row" has no negative entry, unless n is the number of columns.
#
# Guess: sp_matmul_topn(A, B, top_n=n) keeps the n largest entries of each row of A @ B, whatever their sign: since 1.0
#   the threshold is off by default, which "enables proper functioning for matrices that contain negative values".
# Versions: sparse-dot-topn 1.2.0, scipy 1.17.1, numpy 2.4.6.
# What happens: entries below 0 are left out, as if the threshold were 0: a row with fewer than n positive entries is
#   short, one without any is empty. With top_n equal to the number of columns all come back, as the README says; with
#   one column less no negative entry does. threshold=None is thus not "no threshold".
# Who is hurt: nearest neighbors by inner products of centered or learned vectors: queries lose candidates, or all of
#   them; if distances are negated so that the largest is the nearest, every query does.
# Remedy: threshold=-numpy.inf.
#
# Output seen (100 rows; entries kept, negative ones among them):
#   top_n of 50 columns               10             30             49             50
#   as many as there are              1000, 0        3000, 483      4900, 2379     5000, 2479
#   threshold=None                    1000, 0        2517, 0        2521, 0        5000, 2479
#   threshold=-inf                    1000, 0        3000, 483      4900, 2379     5000, 2479
#   all entries negative, None        0, 0           0, 0           0, 0           5000, 5000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sparse-dot-topn==1.2.0 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from scipy import sparse
from sparse_dot_topn import sp_matmul_topn

rng = np.random.default_rng(0)
a, b = (sparse.csr_matrix(rng.normal(size=shape)) for shape in ((100, 6), (6, 50)))
counts = (10, 30, 49, 50)
largest = np.sort((a @ b).toarray(), axis=1)[:, ::-1]
found = {
    "as many as there are": [largest[:, :n] for n in counts],
    "threshold=None": [sp_matmul_topn(a, b, top_n=n).toarray() for n in counts],
    "threshold=-inf": [sp_matmul_topn(a, b, top_n=n, threshold=-np.inf).toarray() for n in counts],
    "all entries negative, None": [sp_matmul_topn(abs(a), -abs(b), top_n=n).toarray() for n in counts],
}
print(f"{'top_n of 50 columns':<34}" + "".join(f"{n:<15}" for n in counts).rstrip())
kept = {}
for name, results in found.items():
    kept[name] = [(int(np.sum(one != 0)), int(np.sum(one < 0))) for one in results]
    print(f"{name:<34}" + "".join(f"{f'{n}, {negative}':<15}" for n, negative in kept[name]).rstrip())
assert kept["threshold=-inf"] == kept["as many as there are"] and kept["threshold=None"][3] == (5000, 2479)
assert [negative for _, negative in kept["threshold=None"][:3]] == [0, 0, 0], "negative products are kept now"
assert kept["all entries negative, None"][2:] == [(0, 0), (5000, 5000)]
PYTHON
