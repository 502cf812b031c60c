#!/usr/bin/env bash
# implicit's precision at 10 is ten times too large where each user has one item in the test set: it is the recall.
#
# Guess: precision at K is the share of the K recommended items that are in the test set, so with one test item a user
#   it is at most 1/K; with leave_k_out_split(K=1) and 10 recommendations 0.1 is perfect.
# Versions: implicit 0.7.3, scipy 1.17.1, numpy 2.4.6.
# What happens: ranking_metrics_at_k and precision_at_k divide the hits by the sum of min(K, test items of the user)
#   (implicit/evaluation.pyx), for all users together. With fewer test items than K, as nearly always, that is the
#   recall over all test items; with more it is the precision. Of users with few and with many items it is neither.
# Who is hurt: whoever compares the number with that of another library or a paper: it is better by a factor of K over
#   the mean number of test items, and changes with the split as a precision would not.
# Remedy: count the hits of model.recommend; divide by K and the number of users.
#
# Output seen (200 users, 50 items, the same 10 recommendations of a user each time):
#   test items a user   precision by hand   recall by hand   implicit's precision
#   1                   0.0275              0.2750           0.2750
#   2                   0.0585              0.2925           0.2925
#   4                   0.1065              0.2662           0.2662

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet implicit==0.7.3 scipy==1.17.1 numpy==2.4.6
OPENBLAS_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.evaluation import leave_k_out_split, ranking_metrics_at_k

users, items, k = 200, 50, 10
rng = np.random.default_rng(0)
liked = sp.csr_matrix((rng.random((users, items)) < 0.3).astype(np.float32))
print("test items a user   precision by hand   recall by hand   implicit's precision")
for held_out in (1, 2, 4):
    np.random.seed(0)  # the split draws from it, whatever its random_state is
    train, test = leave_k_out_split(liked, K=held_out)
    model = AlternatingLeastSquares(factors=8, iterations=5, random_state=0, use_gpu=False, num_threads=1)
    model.fit(train, show_progress=False)
    given = ranking_metrics_at_k(model, train, test, K=k, show_progress=False)["precision"]
    chosen, _ = model.recommend(np.arange(users), train, N=k)
    hits = sum(len(np.intersect1d(chosen[user], test[user].indices)) for user in range(users))
    precision, recall = hits / (users * k), hits / test.nnz
    print(f"{held_out:<20}{precision:<20.4f}{recall:<17.4f}{given:.4f}")
    assert test.nnz == users * held_out and hits > 0
    assert abs(given - recall) < 1e-9 and given > 2 * precision, "it is a precision now"
PYTHON
