#!/usr/bin/env bash
# SMOTE of imbalanced-learn makes bytes of up to 255 from bytes of 0, 1 and 2.
#
# Guess: a new example lies between two old ones, so each feature of it lies between theirs; with small integers it is
#   rounded at worst.
# Versions: imbalanced-learn 0.14.2, scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6.
# What happens: the way from one example to its neighbor is neighbor - example in the features' own type. For uint8 and
#   uint16 1 - 2 is 255 or 65535, and the new feature, 2 + 0.5 * 255, is 129. In int8 differences above 127 wrap
#   in the same way. The result has the dtype of the input, so it looks right. BorderlineSMOTE, SVMSMOTE and ADASYN do
#   the same, arrays and CSR alike; signed integers and floats that are wide enough are right.
# Who is hurt: images (uint8 pixels), counts and categories that were packed in small types to save memory: half of the
#   features that differ are noise in every new example, and the classifier learns to tell new from old.
# Remedy: X.astype(np.float32) first.
#
# Output seen (100 examples of 20 features 0, 1, 2; 60 new ones):
#   dtype     old features   new features   new features above 2
#   float32   0 to 2         0.0 to 2.0     0 %
#   int8      0 to 2         0 to 2         0 %
#   uint8     0 to 2         0 to 255       26 %

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet imbalanced-learn==0.14.2 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from imblearn.over_sampling import SMOTE

rng = np.random.default_rng(0)
features = rng.integers(0, 3, size=(100, 20))
labels = (np.arange(100) < 20).astype(int)
print("dtype     old features   new features   new features above 2")
above = {}
for dtype in ("float32", "int8", "uint8"):
    resampled, _ = SMOTE(random_state=0).fit_resample(features.astype(dtype), labels)
    new = resampled[100:]
    above[dtype] = float((new > 2).mean())
    span = f"{new.min()} to {new.max()}"
    print(f"{dtype:<10}{f'{features.min()} to {features.max()}':<15}{span:<15}{100 * above[dtype]:.0f} %")
    assert new.dtype == dtype and len(new) == 60
assert above["float32"] == above["int8"] == 0
assert above["uint8"] > 0.1, "bytes are interpolated now"
PYTHON
