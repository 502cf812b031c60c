#!/usr/bin/env bash
# corpus[-1] of gensim's Sparse2Corpus is a document without words, whatever the matrix holds.
#
# Guess: a corpus with len and [] counts from the end for negative numbers, as lists and the matrix under it do, or
#   raises IndexError.
# Versions: gensim 4.4.0, scipy 1.17.1, numpy 2.4.6.
# What happens: document i is the entries from indptr[i] to indptr[i + 1] (gensim/matutils.py). For -1 these are the
#   last and the first number, so the range is empty. -2 and below are right. A NumPy integer takes another path, as
#   does a slice or a list: corpus[numpy.int64(-1)] is no document but a corpus of one, and right.
# Who is hurt: a document added last and then looked up as corpus[-1], as the query of a similarity index or to check
#   the end of a file: tf-idf of it is [], and its similarity to everything 0, which is a valid answer.
# Remedy: corpus[len(corpus) - 1].
#
# Output seen (three documents, each with two words; number of words):
#   corpus[0]    2
#   corpus[-2]   2
#   corpus[-1]   0
#   corpus[2]    2
#   list(corpus)[-1]        2
#   similarity of corpus[-1] and corpus[2] to the last document: 0.0 1.0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gensim==4.4.0 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from gensim.matutils import Sparse2Corpus
from gensim.similarities import SparseMatrixSimilarity
from scipy import sparse

counts = np.array([[1, 2, 0, 0], [0, 1, 1, 0], [0, 0, 3, 1]])
corpus = Sparse2Corpus(sparse.csr_matrix(counts), documents_columns=False)
assert len(corpus) == 3
words = {f"corpus[{place}]": len(corpus[place]) for place in (0, -2, -1, 2)}
for name, number in words.items():
    print(f"{name:<13}{number}")
print("list(corpus)[-1]       ", len(list(corpus)[-1]))
index = SparseMatrixSimilarity(corpus, num_features=4)
last, right = (float(index[corpus[place]][2]) for place in (-1, 2))
print(f"similarity of corpus[-1] and corpus[2] to the last document: {last:.1f} {right:.1f}")
assert len(list(corpus)[-1]) == words["corpus[2]"] == words["corpus[-2]"] == 2
assert words["corpus[-1]"] == 0 and last == 0, "negative numbers count from the end now"
assert np.isclose(right, 1)
PYTHON
