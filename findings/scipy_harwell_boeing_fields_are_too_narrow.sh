#!/usr/bin/env bash
# SciPy writes Harwell-Boeing files whose numbers are one column narrower than their header says.
#
# Guess: a matrix that `hb_write` has written can be read, by `hb_read` and by Fortran with the format in the header.
# Versions: SciPy 1.17.1, NumPy 2.4.6, fortranformat 2.0.3.
# What happens: the header says 3E25.16 for float64 and 5E15.7 for float32, and the numbers are 24 and 14 columns
#   wide. In float32 there is no blank before a minus sign, so `hb_read`, which splits at blanks, fails where a
#   negative number is not the first of its line. A reader that goes by the header fails in float32 at any line of
#   five numbers, and in float64 where the third of a line is negative.
# Who is hurt: whoever hands weights to a solver that reads this format, or keeps float32 matrices in it: nothing is
#   said when the file is written.
# Remedy: write Matrix Market files (`mmwrite`).
#
# Output seen:
#   float64, 3E25.16: 24 columns; hb_read: as written; by its format: error
#   float32, 5E15.7: 14 columns; hb_read: error; by its format: error
#   float32, all positive: hb_read: as written; by its format: error

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6 fortranformat==2.0.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import scipy.io
import scipy.sparse as sp
from fortranformat import FortranRecordReader


def outcome(read, values):
    try:
        found = read()
    except ValueError:
        return "error"
    assert np.array_equal(found, values), (found, values)
    return "as written"


def written(values):
    """The format in the header, columns of a number, and how both ways to read it end."""
    scipy.io.hb_write("matrix.rua", sp.csc_array(np.diag(values)))
    with open("matrix.rua") as file:
        lines = file.read().splitlines()
    form, rows = lines[3].split()[-1], lines[6:]
    assert form in ("(3E25.16)", "(5E15.7)"), form
    by_format = lambda: [x for row in rows for x in FortranRecordReader(form).read(row)][: len(values)]
    again = lambda: scipy.io.hb_read("matrix.rua").diagonal()
    return form[1:-1], len(rows[0]) // int(form[1]), outcome(again, values), outcome(by_format, values)


values = np.array([1.125, 2.25, -3.375, 4.5, 5.625])
for dtype, wide in ((np.float64, 24), (np.float32, 14)):
    form, columns, again, by_format = written(values.astype(dtype))
    print(f"{np.dtype(dtype)}, {form}: {columns} columns; hb_read: {again}; by its format: {by_format}")
    assert columns == wide and by_format == "error", "numbers are as wide as the header says now"
    assert again == ("as written" if dtype is np.float64 else "error"), "hb_read reads other files now"
_, _, again, by_format = written(abs(values).astype(np.float32))
print(f"float32, all positive: hb_read: {again}; by its format: {by_format}")
assert (again, by_format) == ("as written", "error"), "positive numbers are read differently now"
PYTHON
