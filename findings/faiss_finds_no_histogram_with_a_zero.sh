#!/usr/bin/env bash
# With the Jensen-Shannon metric Faiss finds no neighbor of a histogram with an empty bin, not even itself.
#
# Guess: the Jensen-Shannon divergence was made for distributions with zeros: 0 log 0 counts as 0, it is finite for any
#   two of them, and 0 from a distribution to itself. An exhaustive search with k equal to the number of stored
#   vectors returns them all.
# Versions: faiss-cpu 1.15.1, SciPy 1.17.1, NumPy 2.4.6.
# What happens: 0 log(m / 0) is NaN, and so is the sum. No comparison with NaN is true, so such a vector never gets on
#   the list of results: it is missing from all answers, and as a query it has no answer but the index -1 with the
#   distance 3.4e38. METRIC_Canberra does the same where two vectors have a zero at the same place. The header says
#   that these metrics are those of scipy.spatial.distance; there zeros count 0.
# Who is hurt: searches among sparse histograms (word counts, topics, sparse activations, a softmax that underflows):
#   -1 then reads the last label in NumPy (`labels[I]`), without an error.
# Remedy: add 1e-6 to all bins and normalize again; check I for -1.
#
# Output seen:
#   Jensen-Shannon: [[-1, -1, -1], [-1, -1, -1], [2, -1, -1]], largest SciPy distance 0.4681
#   Canberra: [[2, -1, -1], [2, -1, -1], [2, 1, 0]], largest SciPy distance 2.6667
#   Jensen-Shannon, all bins + 1e-6: [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
#   Bray-Curtis: [[0, 1, 2], [1, 0, 2], [2, 0, 1]]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet faiss-cpu==1.15.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import faiss
import numpy as np
from scipy.spatial.distance import cdist

histograms = np.array([[0.5, 0.5, 0, 0], [0.4, 0.6, 0, 0], [0.25] * 4], np.float32)


def neighbors(metric, points):
    index = faiss.IndexFlat(4, metric)
    index.add(points)
    return index.search(points, len(points))[1].tolist()


found = {}
for name, metric, other in (
    ("Jensen-Shannon", faiss.METRIC_JensenShannon, "jensenshannon"),
    ("Canberra", faiss.METRIC_Canberra, "canberra"),
):
    found[name] = neighbors(metric, histograms)
    most = cdist(histograms, histograms, other).max()
    print(f"{name}: {found[name]}, largest SciPy distance {most:.4f}")
    assert np.isfinite(most), "SciPy is different now"
filled = neighbors(faiss.METRIC_JensenShannon, histograms + np.float32(1e-6))
print(f"Jensen-Shannon, all bins + 1e-6: {filled}")
plain = neighbors(faiss.METRIC_BrayCurtis, histograms)
print(f"Bray-Curtis: {plain}")
assert all(sorted(row) == [0, 1, 2] and row[0] == i for i, row in enumerate(filled)), "it is different now"
assert all(sorted(row) == [0, 1, 2] for row in plain), "it is different now"
assert found["Jensen-Shannon"] == [[-1] * 3, [-1] * 3, [2, -1, -1]], "Jensen-Shannon finds them now"
assert [row[0] for row in found["Canberra"]] == [2, 2, 2] and found["Canberra"][0][1:] == [-1, -1], "so does Canberra"
PYTHON
