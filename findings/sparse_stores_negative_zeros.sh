#!/usr/bin/env bash
# PyData's sparse stores half of the zeros of a pruned matrix, as -0.0 is no zero to it; SciPy, PyTorch, JAX drop it.
#
# Guess: COO.from_numpy(w) keeps what is not 0, so nnz is np.count_nonzero(w), which is also the example in the docs of
#   nnz; and the product of two sparse arrays has at most the common entries.
# Versions: sparse 0.19.3, scipy 1.17.1, torch 2.13.0, jax 0.10.2, numpy 2.4.6.
# What happens: entries are compared with the fill value by their bits. `w * mask` leaves -0.0 where w is negative, so a
#   matrix pruned to 10 % is stored with 55 %, in COO and GCXS alike, and files and products grow with it. A product
#   of two COO arrays makes -0.0 itself, where a negative entry meets a zero, and stores it. Values are right.
# Who is hurt: whoever reads density from nnz or .density, or stores pruned weights: no error shows, only no gain.
# Remedy: COO.from_numpy(w + 0.0), which makes every zero positive, or np.where(mask, w, 0).
#
# Output seen (1000 x 1000, 10 % kept):
#   np.count_nonzero                   100000
#   scipy csr_array                    100000
#   torch to_sparse                    100000
#   jax BCOO                           100000
#   sparse COO                         549840, file 1.99 times as large
#   sparse GCXS                        549840
#   sparse COO, w + 0.0                100000
#   COO of w times COO of the mask     549840
#   values equal: True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    sparse==0.19.3 scipy==1.17.1 torch==2.13.0 jax==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import io

import jax.numpy as jnp
import numpy as np
import scipy.sparse
import sparse
import torch
from jax.experimental.sparse import BCOO

rng = np.random.default_rng(0)
weight = rng.normal(size=(1000, 1000)).astype(np.float32)
mask = (rng.permuted(np.arange(weight.size)) < weight.size // 10).reshape(weight.shape).astype(np.float32)
pruned = weight * mask
true = np.count_nonzero(pruned)
print(f"{'np.count_nonzero':<34} {true}")


def row(name, count, note=""):
    print(f"{name:<34} {count}{note}")
    return count


def size(array):
    file = io.BytesIO()
    sparse.save_npz(file, array)
    return file.tell()


kept, clean = sparse.COO.from_numpy(pruned), sparse.COO.from_numpy(pruned + 0.0)
assert row("scipy csr_array", scipy.sparse.csr_array(pruned).nnz) == true
assert row("torch to_sparse", torch.from_numpy(pruned).to_sparse()._nnz()) == true
assert row("jax BCOO", BCOO.fromdense(jnp.asarray(pruned)).nse) == true
found = row("sparse COO", kept.nnz, f", file {size(kept) / size(clean):.2f} times as large")
assert found > 5 * true, "negative zeros are dropped now"
assert row("sparse GCXS", sparse.GCXS.from_numpy(pruned).nnz) == found
assert row("sparse COO, w + 0.0", clean.nnz) == true
both = sparse.COO.from_numpy(weight) * sparse.COO.from_numpy(mask)
assert row("COO of w times COO of the mask", both.nnz) == found
same = np.array_equal(kept.todense(), clean.todense())
print("values equal:", same)
assert same
PYTHON
