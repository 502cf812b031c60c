#!/usr/bin/env bash
# gensim's similarity index with num_best=n ranks by absolute value: the opposite of the query is "most similar".
#
# Guess: num_best "returns only the num_best most similar documents, always leaving out documents with similarity = 0":
#   the n largest cosines, from 1 downwards.
# Versions: gensim 4.4.0, scipy 1.17.1, numpy 2.4.6.
# What happens: the n entries of largest magnitude are taken (matutils.full2sparse_clipped, scipy2scipy_clipped), so a
#   cosine of -0.95 comes before 0.7, and pushes it out. Without num_best the full row of cosines is right. With several
#   shards, Similarity merges the same way.
# Who is hurt: vectors with negative entries: LSI, word vectors, TF-IDF less its mean, features of a network.
#   Retrieval scores count the opposite as a hit; a vote of the nearest neighbors gets the opposite label. With
#   counts, tf-idf and topics no cosine is negative, and all is well.
# Remedy: num_best=None and numpy.argsort(-row)[:n].
#
# Output seen (cosines of a query with 4 documents: 1.0, 0.7, -0.9, -1.0):
#   MatrixSimilarity         best 2: documents [0, 3]   by argsort [0, 1]
#   SparseMatrixSimilarity   best 2: documents [0, 3]   by argsort [0, 1]
#   200 random vectors of 20: of the 10 nearest 5.5 are found on average

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gensim==4.4.0 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from gensim.similarities import MatrixSimilarity, SparseMatrixSimilarity


def bag(vector):
    return [(place, float(value)) for place, value in enumerate(vector) if value]


cosines = np.array([1, 0.7, -0.9, -1])
documents = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
query = bag([1, 0])
for index in (MatrixSimilarity, SparseMatrixSimilarity):
    full = index([bag(one) for one in documents], num_features=2)
    assert np.allclose(full[query], cosines, atol=1e-6)
    right = np.argsort(-full[query])[:2].tolist()
    best = index([bag(one) for one in documents], num_features=2, num_best=2)[query]
    chosen = sorted(int(place) for place, _ in best)
    print(f"{index.__name__:<24} best 2: documents {chosen}   by argsort {right}")
    assert right == [0, 1] and chosen == [0, 3], "the largest cosines are taken now"
rng = np.random.default_rng(0)
vectors = rng.normal(size=(200, 20))
bags = [bag(one) for one in vectors]
full, best = (MatrixSimilarity(bags, num_features=20, num_best=n) for n in (None, 10))
hits = []
for one in bags[:50]:
    nearest = set(np.argsort(-full[one])[:10].tolist())
    hits.append(len(nearest & {int(place) for place, _ in best[one]}))
print(f"200 random vectors of 20: of the 10 nearest {np.mean(hits):.1f} are found on average")
assert np.mean(hits) < 8
PYTHON
