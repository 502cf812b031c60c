#!/usr/bin/env bash
# Polars' mean_horizontal of 100 and 100 in Int8 columns is -28.0.
#
# Guess: a mean is a float and lies between the least and the largest value; small integers are added in a wider type,
#   as Polars' sum and mean of a column, a list or an array do.
# Versions: Polars 2.1.0.
# What happens: along a row the columns are added in their own dtype, which wraps, and the wrong sum is then divided
#   in float64. Int8, UInt8, Int16, Int32 and the like all wrap; Float32 and Boolean are right. The documentation of
#   `sum` says that it widens them, and that of rows says nothing.
# Who is hurt: frames with small integers (pixels, ratings, quantized activations or labels of several annotators)
#   that are averaged across columns: the means look like numbers and are negative or too small.
# Remedy: cast to Float64 first, or pl.concat_list(columns).list.mean().
#
# Output seen:
#   Int8 [100, 100]: mean_horizontal -28.0, of the list 100.0, sum_horizontal -56
#   UInt8 [200, 100]: mean_horizontal 22.0, of the list 150.0, sum_horizontal 44
#   Int32 [2147483647, 2147483647]: mean_horizontal -1.0, of the list 2147483647.0, sum_horizontal -2
#   mean and sum of an Int8 column [100, 100]: 100.0, 200

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet polars==2.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import polars as pl

cases = (pl.Int8, [100, 100], -28.0), (pl.UInt8, [200, 100], 22.0), (pl.Int32, [2**31 - 1] * 2, -1.0)
for dtype, row, seen in cases:
    frame = pl.DataFrame([row], schema={"a": dtype, "b": dtype}, orient="row")
    wide = frame.mean_horizontal().item()
    listed = frame.select(pl.concat_list("a", "b").list.mean()).item()
    total = frame.sum_horizontal().item()
    print(f"{dtype} {row}: mean_horizontal {wide}, of the list {listed}, sum_horizontal {total}")
    assert listed == sum(row) / 2, "it is different now"
    assert wide == seen, "the mean of a row is right now"
column = pl.Series([100, 100], dtype=pl.Int8)
print(f"mean and sum of an Int8 column [100, 100]: {column.mean()}, {column.sum()}")
assert (column.mean(), column.sum()) == (100, 200), "it is different now"
PYTHON
