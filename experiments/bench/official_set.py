"""The authors' sparse evolutionary training; called by `experiments.bench.set_scipy`.

    python experiments/bench/official_set.py FOLDER CASE.npz

It needs numpy below 2, scipy, numba and psutil, and nothing of this project. FOLDER is a checkout
of github.com/SelimaC/large-scale-sparse-neural-networks. CASE.npz holds the links of each layer, a
batch, its labels and what `fit` would be given. Their constructor draws a dense matrix first, so
the links are substituted for it, in float64 as it makes them; passes and changes are theirs. For
each line it reads, "step", "change" or "outputs FILE", it prints the processor seconds and the
seconds taken; an empty line says that it is ready.
"""

import contextlib
import io
import itertools
import sys
import time
import types
from typing import Any

import numpy as np


def network(folder: str, case: Any) -> Any:
    """Their network with these links."""
    sys.path.insert(0, folder)
    data: Any = types.ModuleType("utils.load_data")  # theirs needs Keras
    data.load_fashion_mnist_data = None
    sys.modules["utils.load_data"] = data
    import scipy.sparse
    import set_mlp_sequential
    from utils.nn_functions import AlternatedLeftReLU, CrossEntropy, Softmax

    sizes = [int(n) for n in case["sizes"]]
    activations = [AlternatedLeftReLU(slope) for slope in case["slopes"]]
    set_mlp_sequential.create_sparse_weights = lambda *given, weight_init: None
    net = set_mlp_sequential.SET_MLP(tuple(sizes), (*activations, Softmax))
    for n, shape in enumerate(itertools.pairwise(sizes)):
        places = case[f"rows{n}"], case[f"columns{n}"]
        values = case[f"values{n}"].astype(np.float64)
        net.w[n + 1] = scipy.sparse.coo_matrix((values, places), shape).tocsr()
    net.loss = CrossEntropy()
    for name in ("learning_rate", "momentum", "weight_decay", "zeta"):
        setattr(net, name, float(case[name]))
    return net


def main(folder: str, file: str) -> None:
    """Answer until the input ends."""
    case = np.load(file)
    net, x, y = network(folder, case), case["x"], case["y"]
    print(flush=True)
    for line in sys.stdin:
        what, *more = line.split()
        used, start = time.process_time(), time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            if what == "step":
                z, a, masks = net._feed_forward(x)
                net._back_prop(z, a, masks, y)
                del z, a, masks
            elif what == "change":
                net.weights_evolution_II(0)
            else:
                np.save(more[0], net._feed_forward(x)[1][net.n_layers])
        print(time.process_time() - used, time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
