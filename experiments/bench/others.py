"""Third-party train steps, products and networks, and the process in which a step is timed.

The benchmarks start it. Protocol: a line "ready" once compiled; then for each line with a number of
steps, the seconds they took. Nothing runs in between.

    python -m experiments.bench.others MODULE:FUNCTION FOLDER ASKED [CORES]

The function returns the step. With CORES it uses only that many; on one core, the seconds are
processor time, which other work on the machine does not lengthen. Each function here imports what
it needs itself: torch and jax must not share a process.
"""

import importlib
import os
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np

RATE, MOMENTUM, ALPHA = 1e-7, 0.9, 5e-4
EVERY = 100
"""Steps between new masks of jaxpruner's schedule."""
BATCH = 64


def data() -> tuple[np.ndarray, np.ndarray]:
    """One batch of images [64, 28, 28] and labels [64]."""
    random = np.random.default_rng(0)
    return random.random((BATCH, 28, 28), np.float32), random.integers(10, size=BATCH)


def authors(folder: str, network: str) -> Callable[[], Any]:
    """A step of the published PyTorch code of Dynamic Sparse Training, as in its trainer."""
    import torch

    sys.path.insert(0, f"{folder}/mnist")
    code: Any = importlib.import_module("model")
    torch.manual_seed(0)
    names = {"lenet-300-100": "LeNet_300_100_Masked", "lenet-5": "LeNet_5_Masked"}
    model = getattr(code, names[network])()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=0.0)
    criterion = torch.nn.CrossEntropyLoss()
    images, labels = data()
    x, y = torch.from_numpy(images)[:, None], torch.from_numpy(labels)

    def step() -> Any:
        model.train()
        loss = criterion(model(x), y)
        for layer in model.modules():
            if isinstance(layer, code.MaskedMLP) or isinstance(layer, code.MaskedConv2d):  # noqa: SIM101
                loss += ALPHA * torch.sum(torch.exp(-layer.threshold))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def jaxpruner_static(folder: str, network: str) -> Callable[[], Any]:
    """A step of jaxpruner under the mask of the largest tenth, which stays."""
    pruner = import_jaxpruner(folder)
    return jaxpruner_step(pruner, pruner.NoUpdateSchedule(), network)


def jaxpruner_magnitude(folder: str, network: str) -> Callable[[], Any]:
    """A step of jaxpruner under the mask of the largest tenth, recomputed every 100 steps."""
    pruner = import_jaxpruner(folder)
    schedule = pruner.PolynomialSchedule(
        update_freq=EVERY, update_start_step=0, update_end_step=10**6
    )
    return jaxpruner_step(pruner, schedule, network)


def import_jaxpruner(folder: str) -> Any:
    """jaxpruner as it is, with the two names it wants of other packages put back.

    `jax.tree_map` is gone from JAX; `ml_collections` is imported only to annotate.
    """
    import jax

    jax.tree_map = jax.tree.map
    try:
        importlib.import_module("ml_collections")
    except ImportError:
        sys.modules["ml_collections"] = types.ModuleType("ml_collections")
    sys.path.insert(0, folder)
    return importlib.import_module("jaxpruner")


def jaxpruner_step(pruner: Any, schedule: Any, network: str) -> Callable[[], Any]:
    """Its step: masks in the optax state, gradients dense, weights masked after the step."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from experiments.bench.networks import NETWORKS

    graphdef, state = nnx.split(NETWORKS[network].make(nnx.Rngs(0)))
    leaves, structure = jax.tree.flatten(state)
    names = [f"leaf{n:02}" for n in range(len(leaves))]
    params = dict(zip(names, leaves, strict=True))

    def distribution(params: dict[str, jax.Array]) -> dict[str, Any]:
        return {name: 0.9 if leaf.ndim > 1 else None for name, leaf in params.items()}

    prune = pruner.MagnitudePruning(scheduler=schedule, sparsity_distribution_fn=distribution)
    tx = prune.wrap_optax(optax.sgd(RATE, momentum=MOMENTUM))
    params, masks = prune.instant_sparsify(params)
    start = jax.tree.map(jnp.array, (params, tx.init(params)._replace(masks=masks)))
    x, y = jax.tree.map(jnp.asarray, data())

    def step(state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        params, sparse = state

        def loss_of(params: Any) -> jax.Array:
            model = nnx.merge(graphdef, jax.tree.unflatten(structure, [params[n] for n in names]))
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, sparse = tx.update(grads, sparse, params)
        params = prune.post_gradient_update(optax.apply_updates(params, updates), sparse)
        return (params, sparse), loss

    jitted = jax.jit(step, donate_argnums=0)
    box = [start]

    def run() -> Any:
        box[0], loss = jax.block_until_ready(jitted(box[0], x, y))
        return loss

    return run


def torch_csr(folder: str, case: str) -> Callable[[], Any]:
    """PyTorch's product of a random CSR matrix [out, in] with x [in, batch].

    Args:
      folder: not used.
      case: inputs, outputs, density and batch.
    """
    import warnings

    import torch

    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    inputs, outputs, density, batch = case.split()
    torch.manual_seed(0)
    matrix = torch.randn(int(outputs), int(inputs))
    matrix *= torch.rand_like(matrix) < float(density)
    sparse, x = matrix.to_sparse_csr(), torch.randn(int(inputs), int(batch))
    if int(batch) == 1:
        x = x[:, 0].contiguous()
    return lambda: (sparse @ x).flatten()[0]


def torch_conv(folder: str, order: str) -> Callable[[], Any]:
    """A dense convolution in PyTorch with its gradients, on the arrays that `gradients` left.

    Asked for is how images lie.
    """
    import torch

    torch.set_num_threads(1)
    lies = torch.channels_last if order == "channels last" else torch.contiguous_format
    read = lambda name: torch.from_numpy(np.load(f"{folder}/{name}.npy"))
    x, dy = (read(n).permute(0, 3, 1, 2).contiguous(memory_format=lies) for n in ("x", "dy"))
    kernel = read("kernel").permute(3, 2, 0, 1).contiguous(memory_format=lies)
    same = [1, 1], [1, 1], [1, 1], False, [0, 0], 1  # stride, padding, dilation, groups
    slopes = [True, True, False]  # of x and the kernel, not of a bias

    def call() -> dict[str, Any]:
        y = torch.nn.functional.conv2d(x, kernel, padding=1)
        dx, dw, _ = torch.ops.aten.convolution_backward(dy, x, kernel, None, *same, slopes)
        return {"forward": y, "dx": dx, "dw": dw}

    as_ours = lambda name, one: one.permute(*((2, 3, 1, 0) if name == "dw" else (0, 2, 3, 1)))
    np.savez(f"{folder}/{order}.npz", **{n: as_ours(n, one) for n, one in call().items()})
    return lambda: next(iter(call().values()))


def torch_network(file: str, asked: str) -> Callable[[], Any]:
    """A dense network in PyTorch; asked for are its name and a number of threads."""
    from experiments.bench.torch_networks import call

    name, cores = asked.split()
    return call(file, name, int(cores))


def onnxruntime(file: str, cores: str) -> Callable[[], Any]:
    """A network in ONNX Runtime, on the inputs that `runtimes.write` left beside its file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = int(cores), 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: np.load(f"{file}.npy")}
    return lambda: session.run(None, given)[0]


def openvino(file: str, asked: str) -> Callable[[], Any]:
    """A network in OpenVINO; asked for is a precision, f32 or bf16, and a number of threads."""
    from openvino import Core

    precision, cores = asked.split()
    x, core = np.load(f"{file}.npy"), Core()
    model = core.read_model(file)
    model.reshape({model.inputs[0]: x.shape})
    wanted = {"INFERENCE_NUM_THREADS": int(cores), "INFERENCE_PRECISION_HINT": precision}
    network = core.compile_model(model, "CPU", wanted | {"PERFORMANCE_HINT": "LATENCY"})
    got = network.get_property("INFERENCE_PRECISION_HINT").to_string()
    if got != precision:
        sys.exit(f"OpenVINO computes in {got} on this processor; asked for {precision}")
    request = network.create_infer_request()
    return lambda: request.infer([x])[0]


def main(name: str, folder: str, asked: str, cores: str = "") -> None:
    """Build the step, say how it starts, then time what is asked for."""
    if cores and sys.platform != "linux":
        sys.exit(f"only Linux can keep a process to {cores} of its cores; got {sys.platform}")
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    clock = time.process_time if cores == "1" else time.perf_counter
    module, function = name.split(":")
    step = getattr(importlib.import_module(module), function)(folder, asked)
    loss = float(np.abs(np.asarray(step())).mean())
    for _ in range(3):
        step()
    print(f"ready {loss}", flush=True)
    for line in sys.stdin:
        start = clock()
        for _ in range(int(line)):
            step()
        print(clock() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
