#!/usr/bin/env bash
# h5py writes the label -1 into a uint8 data set as 0, the first class; zarr and NumPy make it 255.
#
# Guess: dset[:] = labels casts as NumPy's assignment does, so -1 ("ignore") becomes 255, which is the mark of
#   unlabeled pixels in segmentation masks; or it raises, as NumPy 2 does for the Python integer -1.
# Versions: h5py 3.16.0, zarr 3.1.6, numpy 2.4.6.
# What happens: HDF5 converts on the way to the file, and its conversion ends at the limits of the type: -1 becomes 0
#   and 300 becomes 255, without a warning. create_dataset(data=labels, dtype="u1") does the same. zarr converts with
#   NumPy's astype, which wraps. A float that is NaN becomes the least integer in h5py.
# Who is hurt: labels computed as int64 and stored as bytes. All that was unlabeled is of class 0 after it, so it is
#   trained on and counted; and a loader made for zarr files ignores 255, which is not there.
# Remedy: labels.astype("u1") before the assignment, after a look at min and max.
#
# Output seen:
#   written as int64           [  3   0  -1   9 300]
#   NumPy, a[:] = labels       [  3   0 255   9  44]
#   zarr, array[:] = labels    [  3   0 255   9  44]
#   h5py, dset[:] = labels     [  3   0   0   9 255]
#   h5py, create_dataset       [  3   0   0   9 255]
#   share of class 0 in a mask with 20 % of class 0 and 30 % unlabeled: written 0.20, zarr 0.20, h5py 0.50

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet h5py==3.16.0 zarr==3.1.6 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import h5py
import numpy as np
import zarr

file = h5py.File("labels.h5", "w")


def by_numpy(labels):
    array = np.zeros(labels.shape, "u1")
    array[:] = labels
    return array


def by_zarr(labels):
    array = zarr.create_array(store={}, shape=labels.shape, dtype="u1", chunks=labels.shape)
    array[:] = labels
    return array[:]


def by_h5py(labels):
    dset = file.create_dataset(None, labels.shape, "u1")
    dset[:] = labels
    return dset[:]


def by_create(labels):
    return file.create_dataset(None, data=labels, dtype="u1")[:]


labels = np.array([3, 0, -1, 9, 300])
ways = {
    "NumPy, a[:] = labels": by_numpy,
    "zarr, array[:] = labels": by_zarr,
    "h5py, dset[:] = labels": by_h5py,
    "h5py, create_dataset": by_create,
}
print(f"{'written as int64':<26} {labels}")
found = {name: write(labels) for name, write in ways.items()}
for name, read in found.items():
    print(f"{name:<26} {read}")
mask = np.repeat([0, 1, -1], [200, 500, 300])
shares = [float(np.mean(one == 0)) for one in (mask, by_zarr(mask), by_h5py(mask))]
print("share of class 0 in a mask with 20 % of class 0 and 30 % unlabeled:", end=" ")
print("written {:.2f}, zarr {:.2f}, h5py {:.2f}".format(*shares))
assert found["zarr, array[:] = labels"][2] == found["NumPy, a[:] = labels"][2] == 255
assert found["h5py, dset[:] = labels"][2] == found["h5py, create_dataset"][2] == 0, "h5py wraps or refuses now"
assert found["h5py, dset[:] = labels"][4] == 255 and shares == [0.2, 0.2, 0.5]
PYTHON
