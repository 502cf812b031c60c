"""Whole networks at inference: packed by jsparse, and dense in XLA and in other runtimes.

Each runs in its own process on a fixed number of cores (`experiments.bench.others`). The dense
networks have random weights; a sparse one keeps the largest of them, layer by layer, and is stored
as `jsparse.export.pick` chooses. ONNX Runtime and OpenVINO read the dense network from a file,
PyTorch its weights (`torch_networks`). Runtimes that are not installed are left out.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsparse
from experiments import common, networks
from experiments.bench.networks import KERNELS, NETWORKS, Network, features, tokens
from experiments.bench.others import onnxruntime, openvino, torch_network
from experiments.bench.rounds import Here, Load, There, in_turns, ratio
from jsparse import export
from jsparse._slots import walk_modules

Name = Literal[
    "linear-4096",
    "mlp-1024",
    "transformer-512",
    "lenet-300-100",
    "lenet-5",
    "resnet-20",
    "vgg-16",
    "wrn-16-8",
]
WIDE = partial(networks.Transformer, 256, width=512, blocks=4, heads=8, context=64)
SERVED = {
    **NETWORKS,
    "linear-4096": Network(
        lambda rngs: nnx.Sequential(nnx.Linear(4096, 4096, rngs=rngs)),
        features(1, 4096, classes=2),
        float("inf"),
    ),
    "transformer-512": Network(WIDE, tokens(1, 64), float("inf")),
}
FROM_FILE = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
TORCH, BFLOAT = "PyTorch", "OpenVINO bf16"
FLOATS = (*FROM_FILE, TORCH)
"""In float32."""
OTHERS = (*FROM_FILE, BFLOAT)
INSTALL = 'pip install "jsparse[bench]"'
TOLERANCE = {BFLOAT: 0.05}
"""Relative to the mean size of outputs of XLA in float32; 1e-3 where not given."""


class Setup(NamedTuple):
    """How networks are measured.

    Attributes:
      cores: that each process keeps to.
      densities: parts of the weights that are kept.
      rounds: samples of each way to run a network.
      folder: for files that processes read.
      python: a Python with torch; PyTorch is left out if it is empty.
    """

    cores: int
    densities: Sequence[float]
    rounds: int
    folder: Path
    python: str = ""


class Row(NamedTuple):
    """Seconds a call of each way to run a network, [rounds] by name; what was left out, and why."""

    times: dict[str, np.ndarray]
    missing: dict[str, str]


def absent() -> dict[str, str]:
    """The runtimes that read files and cannot be asked here, each with why."""
    needs = {name: ("jax2onnx", "onnx", module) for name, module in FROM_FILE.items()}
    needs[BFLOAT] = needs["OpenVINO"]
    missing = {
        name: [one for one in packages if importlib.util.find_spec(one) is None]
        for name, packages in needs.items()
    }
    return {n: f"needs {' and '.join(m)}: {INSTALL}" for n, m in missing.items() if m}


def inputs(name: str, batch: int) -> np.ndarray:
    """What the network is called with: random, [batch, ...]."""
    x = SERVED[name].draw(np.random.default_rng(0))[0]
    x = np.tile(x, (-(-batch // len(x)), *(1,) * (x.ndim - 1)))[:batch]
    return x.astype(np.int32 if x.dtype.kind == "i" else np.float32)


def compiled(name: str, x: np.ndarray, density: float) -> Callable[[], Any]:
    """A call of the network in JAX: dense, or with this part of its weights, as `pick` stores it.

    Raises:
      AssertionError: what is stored otherwise gives other outputs.
    """
    given = jnp.asarray(x)
    model, fast = kept(name, density), networks.convolution(scanned=False)
    stored = convolved(nnx.clone(model) if density == 1 else picked(model, given), fast)
    expected = np.asarray(convolved(model, fast)(given))
    way = fastest(stored, given)
    call = lambda: jax.block_until_ready(way.call(way.state)[1])
    np.testing.assert_allclose(call(), expected, atol=1e-3 * float(np.abs(expected).max()))
    return call


def served(file: str, asked: str) -> Callable[[], Any]:
    """`compiled` on the inputs beside a file; asked for are the network and its density."""
    name, density = asked.split()
    return compiled(name, np.load(f"{file}.npy"), float(density))


def kept(name: str, density: float) -> nnx.Module:
    """The network with this part of its weights."""
    model = SERVED[name].make(nnx.Rngs(0))
    if density < 1:
        model = jsparse.fold(jsparse.sparsify(model, (KERNELS, jsparse.Top(density=density))))
    model.eval()
    return model


def picked(model: nnx.Module, x: jax.Array) -> nnx.Module:
    """The network as `pick` stores it, which packs stock convolutions only."""
    return export.pick(convolved(nnx.clone(model), jax.lax.conv_general_dilated), x).model


def convolved(model: nnx.Module, product: Callable[..., Any]) -> nnx.Module:
    """The model itself; those of its convolutions that are dense are computed so."""
    for _, layer in walk_modules(model):
        if isinstance(layer, nnx.Conv):
            layer.conv_general_dilated = product
    return model


def fastest(model: nnx.Module, x: jax.Array) -> Here:
    """A compiled forward pass, with Eigen's convolutions or as XLA chooses: whichever is faster.

    Weights are constants, as they are in the other runtimes.
    """

    def way(options: dict[str, str]) -> Here:
        jitted = jax.jit(lambda x: model(x), compiler_options=options)
        return Here(lambda state: (state, jitted(x)), None)

    ways = {"XLA": way({}), "Eigen": way(networks.compiler_options())}
    seconds = in_turns(ways, 5)
    return ways[min(ways, key=lambda name: np.median(seconds[name]))]


def write(file: Path, model: nnx.Module, x: np.ndarray) -> None:
    """The model as ONNX, and its inputs, in the form that the other processes read.

    Raises:
      NotImplementedError: jax2onnx cannot write it.
    """
    export.onnx(file, model, jnp.asarray(x))
    np.save(f"{file}.npy", x)


def others(stack: ExitStack, file: Path, cores: int) -> tuple[dict[str, There], dict[str, str]]:
    """The runtimes that read a file, started on it, and those that do not run it here."""
    missing = absent()
    asked = {
        "ONNX Runtime": (onnxruntime, f"{cores}"),
        "OpenVINO": (openvino, f"f32 {cores}"),
        BFLOAT: (openvino, f"bf16 {cores}"),
    }
    started = {}
    for name, (step, what) in asked.items():
        if name not in missing:
            start = partial(There, step, str(file), what, cores=cores)
            started |= _started(stack, name, start, missing)
    return started, missing


def _started(
    stack: ExitStack, name: str, start: Callable[[], There], missing: dict[str, str]
) -> dict[str, There]:
    """The process by name, or nothing and a word of it among the missing."""
    try:
        return {name: stack.enter_context(start())}
    except RuntimeError:
        missing[name] = "does not run it here, see above"
        return {}


def weights(model: nnx.Module) -> dict[str, np.ndarray]:
    """Parameters and statistics by path."""
    flat = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return {"/".join(map(str, path)): np.asarray(one[...]) for path, one in flat}


def timed(name: str, batch: int, setup: Setup) -> Row:
    """All ways to run a network, in turns.

    Raises:
      AssertionError: another runtime gives other outputs.
    """
    cores = setup.cores
    file, x = setup.folder / f"{name}-{batch}.onnx", inputs(name, batch)
    missing = absent()
    if not Path(f"{file}.npy").exists():
        with networks.stock_operations():
            model = SERVED[name].make(nnx.Rngs(0))
            model.eval()
            if setup.python:
                np.savez(f"{file}.npz", **weights(model))
            try:
                if len(missing) < len(OTHERS):
                    write(file, model, x)
            except NotImplementedError as error:
                missing = dict.fromkeys(OTHERS, f"not exported: {error}")
    np.save(f"{file}.npy", x)
    with ExitStack() as stack:
        ours = {"XLA": 1.0} | {f"{density:.0%}": density for density in setup.densities}
        ways = {
            way: stack.enter_context(There(served, str(file), f"{name} {density}", cores=cores))
            for way, density in ours.items()
        }
        found: dict[str, There] = {}
        if file.exists():
            found, missing = others(stack, file, cores)
        if setup.python:
            asked, python = f"{name} {cores}", setup.python
            start = partial(There, torch_network, str(file), asked, cores=cores, python=python)
            found |= _started(stack, TORCH, start, missing)
        else:
            missing[TORCH] = "needs a Python with torch: --torch PATH"
        for way, one in found.items():
            expected, allowed = ways["XLA"].loss, TOLERANCE.get(way, 1e-3)
            np.testing.assert_allclose(one.loss, expected, rtol=allowed, err_msg=way)
        return Row(in_turns(ways | found, setup.rounds), missing)


def cells(row: Row, densities: Sequence[float]) -> list[str]:
    """Milliseconds of each way; of the sparse ones also how often as fast as the dense ones."""
    times = row.times
    best = min((n for n in ("XLA", *FLOATS) if n in times), key=lambda n: np.median(times[n]))
    ms = lambda way: f"{1e3 * np.median(times[way]):.3g}" if way in times else "-"
    gain = lambda way, than: f"{float(ratio(times[than], times[way])[0]):.2g}"
    shown = [ms(way) for way in ("XLA", *FLOATS, BFLOAT)]
    for way in (f"{density:.0%}" for density in densities):
        shown += [ms(way), gain(way, best), gain(way, BFLOAT) if BFLOAT in times else "-"]
    return shown


def compare(names: Sequence[str], batch: int, setup: Setup) -> None:
    """All networks at a batch on a number of cores; prints a table and what is missing in it."""
    rows, notes, load = [], {}, Load()
    for name in names:
        row = timed(name, batch, setup)
        rows.append([name, *cells(row, setup.densities)])
        for way, why in row.missing.items():
            notes.setdefault(why, {}).setdefault(name, []).append(way)
        print(f"{name}: {', '.join(rows[-1][1:])}", file=sys.stderr, flush=True)
    clock = "processor time" if setup.cores == 1 else "wall clock"
    cores = common.counted(setup.cores, "core")
    print(f"\nnetworks, batch {batch}, {cores}, ms of {clock}; {load}")
    head = ["network", "XLA", *FLOATS, BFLOAT]
    for density in setup.densities:
        head += [f"{density:.0%} kept", "/ float32", "/ bf16"]
    print(common.table(head, rows), flush=True)
    print("\n/: times as fast as the fastest dense one in float32, as that in bfloat16")
    for why, left in notes.items():
        print("; ".join(f"{name}: {', '.join(ways)}" for name, ways in left.items()), why)
