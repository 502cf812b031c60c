#!/usr/bin/env bash
# implicit's leave_k_out_split doubles ratings in the test set: those of the user before one with too few.
#
# Guess: the split moves K entries of each user with enough ratings into the test matrix, with their values, so that
#   train + test is the whole; users with too few stay in the training set ("each eligible user").
# Versions: implicit 0.7.3, scipy 1.17.1, numpy 2.4.6.
# What happens: the places of the last K entries are counted off for every user number (_take_tails in
#   implicit/evaluation.pyx), also for the users left out, who get the places of the user before them once more. The
#   entries are then twice in the list, and the sparse matrix adds them: a rating of 4 is an 8, or a 12 after two such
#   users. The number of test entries is right. A comment in the code forbids gaps; the split makes them.
# Who is hurt: test sets with graded relevance (NDCG by gain, weighted recall, squared errors of ratings): ratings out
#   of their range, at users who have nothing to do with it. Any real data set has users with few ratings.
# Remedy: test.data = ratings at the places of test; or drop such users and number the others anew before the split.
#
# Output seen (6 users with 10 ratings of 4 each, K=1; some users keep one rating):
#   users with one rating   values in the test set, by user
#   none                    4 4 4 4 4 4
#   user 2                  4 8 - 4 4 4
#   users 2 and 3           4 12 - - 4 4

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet implicit==0.7.3 scipy==1.17.1 numpy==2.4.6
OPENBLAS_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import scipy.sparse as sp
from implicit.evaluation import leave_k_out_split

print("users with one rating   values in the test set, by user")
found = []
for text, few in (("none", []), ("user 2", [2]), ("users 2 and 3", [2, 3])):
    ratings = np.full((6, 10), 4, np.float32)
    ratings[few, 1:] = 0
    train, test = leave_k_out_split(sp.csr_matrix(ratings), K=1)
    assert test.nnz == 6 - len(few) and train.nnz + test.nnz == (ratings != 0).sum()
    found.append(test.toarray().max(axis=1).astype(int).tolist())
    print(f"{text:<24}{' '.join(str(value) if value else '-' for value in found[-1])}")
assert found[0] == [4, 4, 4, 4, 4, 4]
assert found[1:] == [[4, 8, 0, 4, 4, 4], [4, 12, 0, 0, 4, 4]], "the ratings are kept now"
PYTHON
