#!/usr/bin/env bash
# In Grain, a training set cut from a shuffled data set contains the validation set from the second epoch on.
#
# Guess: data = MapDataset.source(...).shuffle(seed=0) has one order, so data[:800] and data[800:] have no record in
#   common, and data[:800].repeat() goes through its 800 records again and again.
# Versions: grain 0.2.18, numpy 2.4.6.
# What happens: a slice asks its parent for position 0 to 799 of each epoch, and shuffle has another order in each:
#   its seed is seed + epoch (SliceMapDataset._sliced_index and ShuffleMapDataset._shuffled_index in
#   grain/_src/python/dataset/transformations). In the first epoch the parts are disjoint, which is what one checks;
#   in the second, 84 % of the validation records have been trained on, after five all of them. Shards of
#   processes, data[process::count], exchange records in the same way.
# Who is hurt: validation, early stopping and pruning criteria measured on "held-out" data; random subsets for
#   calibration.
# Remedy: cut first and shuffle the parts: source[:800].shuffle(seed=0); where the records come in a meaningful
#   order, permute the indices of the source by NumPy first.
#
# Output seen (1000 records):
#                         epochs  records trained on  part of the validation set among them
#   shuffled, then cut    1       800                 0.000
#   shuffled, then cut    2       967                 0.835
#   shuffled, then cut    5       1000                1.000
#   cut, then shuffled    1       800                 0.000
#   cut, then shuffled    2       800                 0.000
#   cut, then shuffled    5       800                 0.000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grain==0.2.18 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import grain

source = grain.MapDataset.source(list(range(1000)))
shuffled = source.shuffle(seed=0)
cuts = {
    "shuffled, then cut": (shuffled[:800], shuffled[800:]),
    "cut, then shuffled": (source[:800].shuffle(seed=0), source[800:]),
}
print("                      epochs  records trained on  part of the validation set among them")
found = {}
for name, (training, validation) in cuts.items():
    assert len(training) == 800 and len(validation) == 200
    held_out = set(validation)
    for epochs in (1, 2, 5):
        seen = list(training.repeat(epochs))
        assert len(seen) == 800 * epochs
        leaked = len(held_out.intersection(seen)) / len(held_out)
        found[name, epochs] = leaked
        print(f"{name:<22}{epochs:<8}{len(set(seen)):<20}{leaked:.3f}")
assert found["shuffled, then cut", 1] == 0
assert found["shuffled, then cut", 2] > 0.5, "a slice keeps its records now"
assert found["shuffled, then cut", 5] > 0.95
assert all(found["cut, then shuffled", epochs] == 0 for epochs in (1, 2, 5))
PYTHON
