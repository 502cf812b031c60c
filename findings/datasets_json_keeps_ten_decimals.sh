#!/usr/bin/env bash
# Dataset.to_json of Hugging Face writes ten decimals: probabilities below 5e-11 come back as 0.
#
# Guess: a JSON file that a library writes for itself to read holds each float64 in full, as json.dumps writes it, so
#   that from_json(to_json(data)) is the same data up to the last digit, as with to_csv.
# Versions: datasets 5.2.0, pandas 2.3.3, pyarrow 26.0.1, numpy 2.4.6.
# What happens: to_json calls pandas's to_json batch by batch, whose double_precision is 10 places behind the point
#   (not 10 digits) unless told otherwise. 1e-12 is written as 0.0, 3.3e-8 with three digits. Nothing is said.
# Who is hurt: small numbers at rest in JSON lines: probabilities, p-values, learning rates, gradients. A mean
#   log-likelihood of what is read back is -inf.
# Remedy: to_json(path, double_precision=15), which keeps 15 places; to_parquet, which keeps all.
#
# Output seen:
#   written  [1.0e-12 3.3e-08 1.2e-04 1.2e-01], mean of log -14.0
#   to_csv   [1.0e-12 3.3e-08 1.2e-04 1.2e-01], mean of log -14.0, equal to 12 digits: True
#   to_json  [0.0e+00 3.3e-08 1.2e-04 1.2e-01], mean of log -inf, equal to 12 digits: False
#   digits of 3.3333333333333334e-08 in the file: 0.0000000333

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pandas==2.3.3 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 HF_HOME="$folder" "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import json

import numpy as np
from datasets import Dataset

written = np.array([1e-12, 1e-7 / 3, 0.00012345678901234567, 0.12345678901234567])
data = Dataset.from_dict({"p": written})
data.to_json("p.json")
data.to_csv("p.csv")
lines = open("p.json").read().split()
found = {
    "written": written,
    "to_csv": np.array(Dataset.from_csv("p.csv")["p"]),
    "to_json": np.array(Dataset.from_json("p.json")["p"]),
}


def same(p):
    return np.allclose(p, written, rtol=1e-12, atol=0)


with np.errstate(divide="ignore"), np.printoptions(formatter={"float": "{:.1e}".format}):
    for name, p in found.items():
        equal = "" if name == "written" else f", equal to 12 digits: {same(p)}"
        print(f"{name:<8} {p}, mean of log {np.log(p).mean():.1f}{equal}")
print(f"digits of {written[1]} in the file:", lines[1].split(":")[1].rstrip("}"))
assert same(found["to_csv"])
assert json.loads(lines[0])["p"] == 0 and found["to_json"][0] == 0, "to_json keeps small numbers now"
assert 0 < abs(found["to_json"][1] / written[1] - 1) < 0.01
PYTHON
