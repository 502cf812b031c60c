#!/usr/bin/env bash
# The product of two sparse matrices of JAX stores every product of two entries, and soon more than a dense matrix.
#
# Guess: A @ B of two BCOO matrices has about as many entries as the product has nonzeros, as in SciPy, and
#   takes less memory than the dense product as long as that is sparse.
# Versions: jax 0.10.2, scipy 1.17.1, numpy 2.4.6, on a CPU.
# What happens: shapes are static, so the result has room for nse_A * nse_B entries, but no more than the dense
#   matrix has, and all but the nonzeros are stored zeros. On the way all pairs of entries are multiplied, also those
#   that do not meet (_bcoo_spdot_general_unbatched in jax/experimental/sparse/bcoo.py). With 256 entries or
#   more in each factor of side 256 the result is as full as a dense one, and three times as large by its indices.
# Who is hurt: chains and powers of sparse matrices, graph networks, merging sparse adapters.
# Remedy: product.sum_duplicates() outside of jax.jit drops the zeros, and sum_duplicates(nse=n) inside; or SciPy for
#   the product, or a dense factor.
#
# Output seen (256 x 256; bytes of a dense product: 262144):
#   entries of a factor  nonzeros of the product  stored by JAX  bytes   after sum_duplicates()
#   64                   17                       4096           49152   17
#   256                  236                      65536          786432  236
#   655                  1670                     65536          786432  1670

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 scipy==1.17.1 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import numpy as np
import scipy.sparse
from jax.experimental import sparse

side = 256
rng = np.random.default_rng(0)


def matrix(entries):
    row, column = np.unravel_index(rng.choice(side * side, entries, replace=False), (side, side))
    values = rng.normal(size=entries).astype(np.float32)
    return scipy.sparse.csr_array((values, (row, column)), shape=(side, side))


print("entries of a factor  nonzeros of the product  stored by JAX  bytes   after sum_duplicates()")
for entries in (64, 256, 655):
    a, b = matrix(entries), matrix(entries)
    product = sparse.BCOO.from_scipy_sparse(a) @ sparse.BCOO.from_scipy_sparse(b)
    exact = a @ b
    np.testing.assert_allclose(product.todense(), exact.toarray(), rtol=1e-5, atol=1e-5)
    size, clean = product.data.nbytes + product.indices.nbytes, product.sum_duplicates()
    print(f"{entries:<21}{exact.nnz:<25}{product.nse:<15}{size:<8}{clean.nse}")
    assert product.nse == min(entries**2, side**2), "the result is smaller now"
    assert exact.nnz <= clean.nse <= 1.1 * exact.nnz + 1 and exact.nnz < product.nse / 20
PYTHON
