#!/usr/bin/env bash
# Hugging Face datasets with the format "numpy" give float64 columns as float32 and uint64 as int64, by batches only.
#
# Guess: with_format("numpy") hands out the Arrow column as a NumPy array of the same type, as the features say; a
#   single row and a batch of rows hold the same numbers.
# Versions: datasets 5.2.0, pyarrow 26.0.1, numpy 2.4.6.
# What happens: a row has the types of the features; a column or a slice is cast, all floating types to float32 and
#   all integers to int64 (NumpyFormatter._tensorize, datasets/formatting/np_formatter.py), while `features` still says
#   float64 and uint64. Unix times are rounded to 128 seconds, and hashes above 2^63 turn negative.
# Who is hurt: times, coordinates, prices and 64-bit hashes; a map(batched=True) in this format writes the rounded
#   numbers back, into a column that is float64 still. Reading single rows to check shows nothing.
# Remedy: with_format("numpy", dtype=np.float64), which then casts every column, or with_format("arrow").
#
# Output seen:
#   features                   time float64, hash uint64, small int8
#   a row                      1700000001.5 float64, 9223372036854775813 uint64, 1 int8
#   a slice of one row         1700000000.0 float32, -9223372036854775803 int64, 1 int64
#   a step of 10 s in a slice  0.0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from datasets import Dataset

data = Dataset.from_dict(
    {
        "time": np.array([1_700_000_001.5, 1_700_000_011.5]),
        "hash": np.array([2**63 + 5, 7], np.uint64),
        "small": np.array([1, 2], np.int8),
    }
).with_format("numpy")
print(f"{'features':<26}", ", ".join(f"{name} {kind.dtype}" for name, kind in data.features.items()))


def show(name, values):
    print(f"{name:<26}", ", ".join(f"{value} {value.dtype}" for value in values))


row, rows = data[0], data[:1]
show("a row", row.values())
show("a slice of one row", [column[0] for column in rows.values()])
step = np.diff(data[:]["time"])[0]
print(f"{'a step of 10 s in a slice':<26} {step}")
assert row["time"] == 1_700_000_001.5 and row["hash"] == 2**63 + 5
assert rows["time"].dtype == np.float32 and rows["hash"].dtype == np.int64, "a slice has the types of the features now"
assert step == 0 and rows["hash"][0] < 0
PYTHON
