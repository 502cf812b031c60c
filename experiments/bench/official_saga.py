"""The authors' path of sparse heads, in its own Python; called by `experiments.bench.heads`.

    python experiments/bench/official_saga.py CASE.npz OUT.npz POINTS

It needs torch, numpy and glm_saga, and nothing of this project. CASE.npz holds standardized
features and labels. OUT.npz gets lambdas [points], weights [points, classes, features] and biases.
The settings are the authors': step 0.1, batches of 256, mix 0.99, and for a lambda at most 2,000
epochs, until the loss of an epoch has not fallen by 1e-4 for 3 epochs. The last line printed has
the seconds and the processor seconds of the path.
"""

import contextlib
import io
import os
import sys
import time
import warnings

import numpy as np


def main(case: str, out: str, points: str) -> None:
    """Solve one case."""
    import torch
    from glm_saga.elasticnet import IndexedTensorDataset, glm_saga

    warnings.filterwarnings("ignore")  # a softmax without its axis
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    given = np.load(case)
    features, labels = torch.tensor(given["features"]), torch.tensor(given["labels"]).long()
    rows = IndexedTensorDataset(features, labels)
    loader = torch.utils.data.DataLoader(rows, batch_size=256, shuffle=True)
    classes = int(labels.max()) + 1
    linear = torch.nn.Linear(features.shape[1], classes)
    for parameter in linear.parameters():
        parameter.data.zero_()
    start, used = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        path = glm_saga(
            linear, loader, 0.1, 2000, 0.99, k=int(points), n_classes=classes, lookbehind=3,
            do_zero=False,
        )["path"]  # fmt: skip
    seconds, used = time.perf_counter() - start, time.process_time() - used
    kept = {"lams": "lam", "weights": "weight", "biases": "bias"}
    np.savez(out, **{n: np.stack([np.asarray(p[key]) for p in path]) for n, key in kept.items()})
    print(seconds, used)


if __name__ == "__main__":
    main(*sys.argv[1:])
