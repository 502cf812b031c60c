#!/usr/bin/env bash
# rliable's intervals do not depend on the random_state that is given "for reproducibility", but on np.random.seed.
#
# Guess: get_interval_estimates(..., random_state=RandomState(0)) gives the same interval each time, and another one
#   for RandomState(1): "if specified, ensures reproducibility in uncertainty estimates".
# Versions: rliable 1.2.0, arch 7.2.0, numpy 2.4.6, scipy 1.17.1, pandas 2.3.3.
# What happens: the state goes to the base class of arch, whose draws rliable overrides with np.random.choice
#   (update_indices in rliable/library.py). So NumPy's global state alone counts, and it is used up: what else draws
#   from it, such as an environment or a shuffle, goes on differently after an interval was computed.
# Who is hurt: whoever publishes intervals with the seed of the bootstrap and cannot get them again, and tests that
#   compare intervals. Where two methods are close, "the intervals do not overlap" changes between two runs.
# Remedy: np.random.seed(0) before each call.
#
# Output seen (two methods of 5 runs and 3 tasks; where the interval of a ends and that of b begins, 200 resamplings):
#   RandomState(0)                   0.653  0.662  apart: True
#   RandomState(0) again             0.655  0.652  apart: False
#   seed(0) and RandomState(1)       0.664  0.629  apart: False
#   seed(0) and RandomState(2)       0.664  0.629  apart: False
#   the global state is as before: False

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rliable==1.2.0 arch==7.2.0 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from rliable import metrics
from rliable.library import get_interval_estimates

rng = np.random.default_rng(0)
scores = {"a": rng.uniform(0.2, 0.8, (5, 3)), "b": rng.uniform(0.42, 1.02, (5, 3))}


def ends(state):
    _, intervals = get_interval_estimates(
        scores, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=200, random_state=np.random.RandomState(state)
    )
    return float(intervals["a"][1, 0]), float(intervals["b"][0, 0])


found = {}
np.random.seed(7)
before = np.random.get_state()[1].copy(), np.random.get_state()[2]
for title, seed, state in (
    ("RandomState(0)", None, 0),
    ("RandomState(0) again", None, 0),
    ("seed(0) and RandomState(1)", 0, 1),
    ("seed(0) and RandomState(2)", 0, 2),
):
    if seed is not None:
        np.random.seed(seed)
    found[title] = end, begin = ends(state)
    print(f"{title:<33}{end:.3f}  {begin:.3f}  apart: {end < begin}")
    if title == "RandomState(0)":
        after = np.random.get_state()
        same = bool(np.array_equal(before[0], after[1]) and before[1] == after[2])
print(f"the global state is as before: {same}")
assert not same
assert found["RandomState(0)"] != found["RandomState(0) again"], "the random state counts now"
assert found["seed(0) and RandomState(1)"] == found["seed(0) and RandomState(2)"]
PYTHON
