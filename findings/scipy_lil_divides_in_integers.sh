#!/usr/bin/env bash
# LIL and DOK arrays of integers divided by 2 stay integers: 3 / 2 is 1 and 1 / 2 is 0.
#
# Guess: `/` is true division, as in Python and NumPy; an array of counts divided by a number is one of floats,
#   whatever its format.
# Versions: SciPy 1.17.1, NumPy 2.4.6.
# What happens: COO, CSR, CSC, DIA and BSR give floats. LIL and DOK promote the dtype with that of the scalar, as a
#   sum would, and round toward zero; entries that become 0 stay stored. A product with 0.5 is right, and so is
#   division by 2.0.
# Who is hurt: whoever fills a matrix of counts in LIL or DOK, which SciPy recommends for that, and halves or
#   normalizes it before the conversion to CSR: all counts below the divisor are lost.
# Remedy: convert to CSR first, or divide by a float.
#
# Output seen:
#   coo, csr, csc, dia, bsr: [[0.5, 0.0, 1.5]]
#   lil, dok: [[0, 0, 1]]
#   lil and dok, divided by 2.0: [[0.5, 0.0, 1.5]]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import scipy.sparse as sp

counts = sp.coo_array([[1, 0, 3]])


def halves(formats, divisor=2):
    found = [(counts.asformat(name) / divisor).toarray().tolist() for name in formats]
    assert all(one == found[0] for one in found), found
    return found[0]


most, others = ("coo", "csr", "csc", "dia", "bsr"), ("lil", "dok")
print(f"{', '.join(most)}: {halves(most)}")
print(f"{', '.join(others)}: {halves(others)}")
print(f"{' and '.join(others)}, divided by 2.0: {halves(others, 2.0)}")
assert halves(most) == [[0.5, 0.0, 1.5]], "the others are different now"
assert halves(others) == [[0, 0, 1]] and halves(others, 2.0) == [[0.5, 0.0, 1.5]], "LIL and DOK divide now"
PYTHON
