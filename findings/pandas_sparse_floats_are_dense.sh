#!/usr/bin/env bash
# In pandas "Sparse[float32]" stores every zero: a column takes more memory than a dense one.
#
# Guess: what is not stored is 0, as in SciPy and as in pandas' own "Sparse[int64]", so 5 % nonzeros take 5 % of the
#   space and a little for the positions, and a cast of a sparse column to float32 leaves it as sparse as it was.
# Versions: pandas 3.1.1, scipy 1.17.1, numpy 2.4.6.
# What happens: a sparse type has a fill value, which for floats is NaN unless it is given. Zeros are then numbers like
#   others and stored with their positions. A column of DataFrame.sparse.from_spmatrix, whose fill value is 0, gets
#   the other one by the cast, and with it all its zeros; the values are the same, so nothing looks wrong.
# Who is hurt: one-hot columns, counts and feature matrices that are cast to float32 for training, where the point of
#   the sparse columns is that the dense ones do not fit.
# Remedy: pd.SparseDtype("float32", 0.0), and a look at column.sparse.density.
#
# Output seen (1000 rows, 50 of them 2, the others 0):
#   column                  cast to               mean   density  bytes
#   from_spmatrix, float64  as it is              0.10   0.05     600
#   from_spmatrix, float64  float32               0.10   1.00     4000
#   from_spmatrix, float64  Sparse[float32]       0.10   1.00     8000
#   from_spmatrix, float64  Sparse[float32, 0.0]  0.10   0.05     400
#   Sparse[int64]           as it is              0.10   0.05     600
#   Sparse[int64]           float32               0.10   1.00     4000
#   Sparse[int64]           Sparse[float32]       0.10   1.00     8000
#   Sparse[int64]           Sparse[float32, 0.0]  0.10   0.05     400
#   dense, float64          as it is              0.10   1.00     8000
#   dense, float64          float32               0.10   1.00     4000
#   dense, float64          Sparse[float32]       0.10   1.00     8000
#   dense, float64          Sparse[float32, 0.0]  0.10   0.05     400

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pandas==3.1.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pandas as pd
import scipy.sparse

dense = np.zeros(1000)
dense[::20] = 2
from_scipy = pd.DataFrame.sparse.from_spmatrix(scipy.sparse.csc_array(dense[:, None]))[0]
columns = {
    "from_spmatrix, float64": from_scipy,
    "Sparse[int64]": pd.Series(dense.astype(int)).astype("Sparse[int64]"),
    "dense, float64": pd.Series(dense),
}
types = {
    "as it is": None,
    "float32": "float32",
    "Sparse[float32]": "Sparse[float32]",
    "Sparse[float32, 0.0]": pd.SparseDtype("float32", 0.0),
}
found = {}
print("column                  cast to               mean   density  bytes")
for title, column in columns.items():
    for name, kind in types.items():
        cast = column if kind is None else column.astype(kind)
        density = cast.sparse.density if isinstance(cast.dtype, pd.SparseDtype) else 1.0
        assert np.array_equal(np.asarray(cast, np.float64), dense)
        found[title, name] = density, int(cast.memory_usage(index=False))
        print(f"{title:<24}{name:<22}{cast.mean():<7.2f}{density:<9.2f}{found[title, name][1]}")

for title in columns:
    assert found[title, "Sparse[float32]"] == (1, 8000), "zeros are not stored any more"
    assert found[title, "float32"] == (1, 4000)
    assert found[title, "Sparse[float32, 0.0]"] == (0.05, 400)
for title in ("from_spmatrix, float64", "Sparse[int64]"):
    assert found[title, "as it is"][0] == 0.05
PYTHON
