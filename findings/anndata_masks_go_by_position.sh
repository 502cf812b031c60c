#!/usr/bin/env bash
# AnnData takes a boolean Series by position: data[mask] has other cells than data.obs[mask].
#
# Guess: AnnData has names for its rows and columns, and all that pandas gives it is aligned by them, as data.obs[mask]
#   and data.obs["column"] = series are; or, where the order differs, refused.
# Versions: anndata 0.12.19, pandas 2.3.3, scipy 1.17.1, numpy 2.4.6.
# What happens: the values are taken and the index thrown away (anndata/_core/index.py), for obs and var alike. Only
#   the length is checked. A Series of names is looked up by name, and a Series of integers by position.
# Who is hurt: a mask that comes from another table, or from value_counts, sort_values or groupby, has its own order:
#   quality control then keeps the bad cells and removes good ones, and the number of cells is right.
# Remedy: data[mask.reindex(data.obs_names)], or data[mask.index[mask]].
#
# Output seen (scores of 4 cells, sorted, those above 2 kept):
#   data.obs[mask]                   c 3  d 4
#   data[mask]                       a 1  b 2
#   data[mask.reindex(obs_names)]    c 3  d 4
#   data[:, mask] of genes           a 1  b 2

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet anndata==0.12.19 pandas==2.3.3 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore::UserWarning - <<'PYTHON'
import warnings

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

names = pd.Index(list("abcd"))
scores = pd.Series([1, 2, 3, 4], index=names)
data = anndata.AnnData(sparse.csr_matrix(np.diag([1.0, 2, 3, 4])), obs=pd.DataFrame({"score": scores}))
data.var_names, data.var["score"] = names, scores
mask = scores.sort_values(ascending=False) > 2
rows = {"data.obs[mask]": data.obs[mask].score}
with warnings.catch_warnings():
    warnings.simplefilter("error")
    rows["data[mask]"] = data[mask].obs.score
    rows["data[mask.reindex(obs_names)]"] = data[mask.reindex(data.obs_names)].obs.score
    rows["data[:, mask] of genes"] = data[:, mask].var.score
for name, row in rows.items():
    print(f"{name:<32}", "  ".join(f"{cell} {score}" for cell, score in row.items()))
kept = {name: row.tolist() for name, row in rows.items()}
assert kept["data.obs[mask]"] == kept["data[mask.reindex(obs_names)]"] == [3, 4]
assert kept["data[mask]"] == kept["data[:, mask] of genes"] == [1, 2], "masks are aligned now"
PYTHON
