#!/usr/bin/env bash
# A Zarr array that was cut and grows again has old rows in it, up to the end of the chunk; HDF5 has the fill value.
#
# Guess: resize to 5 of 10 rows drops rows 5 to 9; growing again gives rows of the fill value, as in h5py.
# Versions: zarr 3.1.6, h5py 3.16.0, numpy 2.4.6.
# What happens: only chunks that lie wholly outside are deleted. The chunk at the border stays as it is, with what was
#   cut from it, and a larger shape shows it again. The notes in the docstring of resize say so. How many
#   rows return depends on the chunks, so the same program gives other numbers with other chunks. Format 2 and 3 alike.
# Who is hurt: a replay buffer or log that is emptied by resize(0) is safe; one that is rolled back to step n and
#   then resized for the steps to come has rewards of the discarded run beyond the last row written, where "not 0" or
#   "not NaN" is the test for what was reached. A pruned unit comes back with its old weights.
# Remedy: array[n:] = fill_value before the resize to n, or append, which writes all that it adds.
#
# Output seen (1 to 10, cut to 5 and grown to 10):
#   zarr, chunks of 4    1 2 3 4 5 6 7 8 0 0
#   zarr, chunks of 5    1 2 3 4 5 0 0 0 0 0
#   zarr, chunks of 10   1 2 3 4 5 6 7 8 9 10
#   h5py, chunks of 4    1 2 3 4 5 0 0 0 0 0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet zarr==3.1.6 h5py==3.16.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import h5py
import numpy as np
import zarr

found = {}


def cut_and_grow(name, array):
    array[:] = np.arange(1, 11)
    array.resize((5,))
    assert array[:].tolist() == [1, 2, 3, 4, 5]
    array.resize((10,))
    found[name] = array[:].tolist()
    print(f"{name:<21}" + " ".join(map(str, found[name])))


for form in (2, 3):
    for chunk in (4, 5, 10):
        store = zarr.storage.MemoryStore()
        options = {"shape": (10,), "chunks": (chunk,), "dtype": "i4", "fill_value": 0, "zarr_format": form}
        array = zarr.create_array(store, **options)
        if form == 3:
            cut_and_grow(f"zarr, chunks of {chunk}", array)
        else:
            array[:] = np.arange(1, 11)
            array.resize((5,))
            array.resize((10,))
            assert (array[5:] != 0).sum() == {4: 3, 5: 0, 10: 5}[chunk], "format 2 is different now"
with h5py.File("x", "w", driver="core", backing_store=False) as file:
    cut_and_grow("h5py, chunks of 4", file.create_dataset("x", (10,), "i4", chunks=(4,), maxshape=(None,)))
assert found["h5py, chunks of 4"] == found["zarr, chunks of 5"] == [1, 2, 3, 4, 5, 0, 0, 0, 0, 0]
assert found["zarr, chunks of 4"] == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0], "what was cut is gone now"
assert found["zarr, chunks of 10"] == list(range(1, 11)), "what was cut is gone now"
PYTHON
