#!/usr/bin/env bash
# A cosine index of USearch in u8 finds a third of the neighbors that one in i8 finds: negative entries become 0.
#
# Guess: dtype="u8" is 8 bits as "i8" is, with an offset, or refuses negative numbers; the 6-bit floats e3m2 and e2m3
#   are scaled, since the length of a vector does not matter to a cosine.
# Versions: usearch 2.26.6, numkong 7.8.6, numpy 2.4.6.
# What happens: for i8 and u8 a vector is divided by its length and multiplied by 127 or 255; in u8 what is negative
#   is cut off at 0, without a word. [1, -5, -5] is then [1, 0, 0], at distance 0 from it, and [-1, -1, -1] is a zero
#   vector. The floats e5m2, e4m3, e3m2 and e2m3 are rounded as they are: e2m3 has nothing between 0 and 1/8, so a
#   vector whose entries are all below 1/16 is stored as zeros.
# Who is hurt: embeddings have negative entries, and those of unit length with a thousand dimensions entries of 0.03.
#   The distances look as they should: the query loses its negative entries too.
# Remedy: i8, or e5m2; multiply by 16 or so before e3m2 and e2m3; compare with f32 on a sample.
#
# Output seen (recall of the 10 nearest of 1000 normal vectors of 32 entries, exact search, by size of the entries):
#           1      0.01
#   f32     1.00   1.00
#   i8      0.97   0.97
#   u8      0.36   0.36
#   e5m2    0.92   0.91
#   e3m2    0.92   0.02
#   e2m3    0.94   0.01
#   u8, from [1, 0, 0] to [1, -5, -5]: 0.00, by f32 0.86

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet usearch==2.26.6 numkong==7.8.6 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from usearch.index import Index


def search(dtype, stored, queries, count):
    index = Index(ndim=stored.shape[1], metric="cos", dtype=dtype)
    index.add(np.arange(len(stored)), stored, threads=1)
    return index.search(queries, count, exact=True, threads=1)


vectors = np.random.default_rng(0).normal(size=(1000, 32)).astype(np.float32)
cosines = vectors @ vectors.T / np.linalg.norm(vectors, axis=1)
nearest = np.argsort(-cosines, axis=1)[:, :10]
print(f"{'':<8}1      0.01")
recall = {}
for dtype in ("f32", "i8", "u8", "e5m2", "e3m2", "e2m3"):
    for scale in (1, 0.01):
        keys = search(dtype, vectors * scale, vectors * scale, 10).keys.tolist()
        hits = [len(set(right) & set(found)) / 10 for right, found in zip(nearest.tolist(), keys, strict=True)]
        recall[dtype, scale] = float(np.mean(hits))
    print(f"{dtype:<8}{recall[dtype, 1]:.2f}   {recall[dtype, 0.01]:.2f}")
pair = np.array([[1, 0, 0], [1, -5, -5]], np.float32)
distance = [float(search(dtype, pair[1:], pair[:1], 1).distances.flat[0]) for dtype in ("u8", "f32")]
print(f"u8, from [1, 0, 0] to [1, -5, -5]: {distance[0]:.2f}, by f32 {distance[1]:.2f}")
for scale in (1, 0.01):
    assert min(recall["f32", scale], recall["i8", scale], recall["e5m2", scale]) > 0.85
    assert recall["u8", scale] < 0.6, "u8 keeps negative entries now"
assert min(recall["e3m2", 1], recall["e2m3", 1]) > 0.85
assert max(recall["e3m2", 0.01], recall["e2m3", 0.01]) < 0.2, "small floats are scaled now"
assert distance[0] < 0.01 and distance[1] > 0.8
PYTHON
