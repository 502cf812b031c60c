"""Tries which models can be written as ONNX, StableHLO and safetensors; how large ONNX files are.

    python docs/ways_out.py         # then python docs/results.py

Writes docs/results/21_ways_out.json, where what other versions of JAX gave for these layers
stays, and docs/results/22_onnx_sizes.json, if OpenVINO is installed. About two minutes.
"""

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsparse

RESULTS = Path(__file__).parent / "results"
WAYS_OUT, SIZES = RESULTS / "21_ways_out.json", RESULTS / "22_onnx_sizes.json"
DTYPES = ("float32", "bfloat16", "float16")
HARDWARE = "2-core AMD EPYC, with other work running"


class Stack(nnx.Module):
    """Layers whose weights are stacked, called by a scan."""

    def __init__(self, **kinds: Any):
        make = lambda rngs: nnx.Linear(8, 8, **(kinds | {"rngs": rngs}))
        stacked = nnx.split_rngs(splits=3)(nnx.vmap(make, in_axes=(0,), out_axes=0))
        self.layers = stacked(kinds["rngs"])

    def __call__(self, x):
        step = lambda x, layer: nnx.gelu(layer(x))
        return nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)


def packed(form: Any, **kinds: Any) -> nnx.Module:
    rule = jsparse.Top(density=0.25, unit=jsparse.Block((8, 8)))
    model = jsparse.fold(jsparse.sparsify(nnx.Linear(32, 32, **kinds), (".*kernel", rule)))
    left = jsparse.export.left_dense(model, form)
    assert not left, left
    return jsparse.export.pack(model, form)


def conv(*rest: Any, **settings: Any) -> Callable[..., nnx.Module]:
    return lambda **kinds: nnx.Sequential(nnx.Conv(4, 4, (3, 3), **settings, **kinds), *rest)


max_pool = lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2))
avg_pool = lambda x: nnx.avg_pool(x, (2, 2), strides=(2, 2))
CSR, BLOCKS = jsparse.export.csr(), jsparse.export.blocks((8, 8))
LAYERS: dict[str, tuple[Callable[..., nnx.Module], tuple[int, ...]]] = {
    "`Linear`, relu": (lambda **k: nnx.Sequential(nnx.Linear(8, 6, **k), nnx.relu), (8,)),
    "`Conv`": (conv(), (8, 8, 4)),
    "`Conv`, depthwise": (conv(feature_group_count=4), (8, 8, 4)),
    "`Conv`, strided": (conv(strides=2), (8, 8, 4)),
    "`ConvTranspose`": (
        lambda **k: nnx.ConvTranspose(4, 6, (3, 3), strides=(2, 2), **k),
        (8, 8, 4),
    ),
    "`max_pool`": (conv(max_pool), (8, 8, 4)),
    "`avg_pool`": (conv(avg_pool), (8, 8, 4)),
    "`BatchNorm`": (lambda **k: nnx.BatchNorm(4, **k), (8, 8, 4)),
    "`LayerNorm`": (lambda **k: nnx.LayerNorm(8, **k), (7, 8)),
    "`Embed`": (lambda **k: nnx.Embed(11, 8, **k), (7,)),
    "`MultiHeadAttention`": (lambda **k: nnx.MultiHeadAttention(2, 8, decode=False, **k), (7, 8)),
    "`RNN` of `LSTMCell`": (lambda **k: nnx.RNN(nnx.LSTMCell(8, 5, **k)), (7, 8)),
    "`RNN` of `GRUCell`": (lambda **k: nnx.RNN(nnx.GRUCell(8, 5, **k)), (7, 8)),
    "scan over stacked `Linear`": (lambda **k: Stack(**k), (8,)),
    "packed as `csr()`": (lambda **k: packed(CSR, **k), (32,)),
    "packed as `blocks(8, 8)`": (lambda **k: packed(BLOCKS, **k), (32,)),
    "packed as `int8(csr())`": (lambda **k: packed(jsparse.export.int8(CSR), **k), (32,)),
    "packed as `int8(blocks(8, 8))`": (lambda **k: packed(jsparse.export.int8(BLOCKS), **k), (32,)),
}


def sample(name: str, dtype: str) -> tuple[nnx.Module, jax.Array]:
    """A layer and its input, in a dtype."""
    make, shape = LAYERS[name]
    model = make(dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    weights = nnx.state(model, nnx.Param)  # cells cannot be initialized in few bits
    cast = lambda w: w.astype(dtype) if jnp.issubdtype(w.dtype, jnp.floating) else w
    nnx.update(model, jax.tree.map(cast, weights))
    model.eval()
    if "Embed" in name:
        return model, jax.random.randint(jax.random.key(0), (2, *shape), 0, 11)
    return model, jax.random.normal(jax.random.key(0), (2, *shape), dtype)


def as_onnx(model: nnx.Module, x: jax.Array, folder: Path) -> None:
    jsparse.export.onnx(folder / "model.onnx", model, x)  # compares in onnxruntime


def as_stablehlo(model: nnx.Module, x: jax.Array, folder: Path) -> None:
    jsparse.export.save(folder / "model", model, x)  # compares; `load` calls the program
    found, expected = jsparse.export.load(folder / "model")(x), model(x)
    assert found.dtype == expected.dtype
    assert jnp.allclose(jnp.float32(found), jnp.float32(expected), 0.05, 0.05)


def as_safetensors(model: nnx.Module, x: jax.Array, folder: Path) -> None:
    if not (folder / "model").exists():  # `as_stablehlo` has failed
        jsparse.export.save(folder / "model", model, x)
    blank = jsparse.export.unpack(model)
    nnx.update(blank, jax.tree.map(jnp.zeros_like, nnx.state(blank, nnx.Param)))
    saved = nnx.Not(nnx.RngState)
    found = nnx.state(jsparse.export.restore(folder / "model", blank), saved)
    same = lambda a, b: a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert jax.tree.all(jax.tree.map(same, nnx.state(model, saved), found))


WAYS = {"ONNX": as_onnx, "StableHLO": as_stablehlo, "safetensors": as_safetensors}


def tried(name: str, dtype: str) -> dict[str, str]:
    """What stands in the way of each way out; empty where nothing does."""
    model, x = sample(name, dtype)
    faults = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, leave in WAYS.items():
            try:
                leave(model, x, Path(folder))
                faults[way] = ""
            except Exception as error:
                first = (str(error).splitlines() or [type(error).__name__])[0]
                faults[way] = first.replace(folder, "...")
    return faults


def rows(runs: dict[str, dict]) -> list[list[str]]:
    """Dtypes in which a layer leaves, with every version of JAX."""
    table = []
    for name in LAYERS:
        good = {
            way: [d for d in DTYPES if not any(run[name][d][way] for run in runs.values())]
            for way in WAYS
        }
        cells = ["all" if len(g) == len(DTYPES) else ", ".join(g) or "none" for g in good.values()]
        table.append([name, *cells])
    return table


def notes(runs: dict[str, dict]) -> list[str]:
    """Why a layer does not leave."""
    reasons: dict[str, list[str]] = {}
    for name in LAYERS:
        for dtype in DTYPES:
            for fault in dict.fromkeys(run[name][dtype][w] for run in runs.values() for w in WAYS):
                if fault:
                    reasons.setdefault(fault, []).append(f"{name} in {dtype}")
    return [f"{', '.join(dict.fromkeys(names))}: {fault}" for fault, names in reasons.items()]


def ways_out() -> None:
    known = json.loads(WAYS_OUT.read_text())["runs"] if WAYS_OUT.exists() else {}
    now = f"jax {jax.__version__}, flax {flax.__version__}"
    known = {name: run for name, run in known.items() if list(run) == list(LAYERS)}
    write(known | {now: {n: {d: tried(n, d) for d in DTYPES} for n in LAYERS}})


def write(runs: dict[str, dict]) -> None:
    result = {
        "title": "Ways out",
        "about": "Which layers can be written to a file, with weights and inputs in float32, "
        "bfloat16 and float16 (all, or those named). Each file is read back and compared: ONNX in "
        "onnxruntime, StableHLO by `load`, the weights by `restore`, to the bit.",
        "command": "python docs/ways_out.py",
        "hardware": HARDWARE,
        "software": "; ".join(sorted(runs)) + "; the same with each",
        "columns": ["layer", *WAYS],
        "rows": rows(runs),
        "notes": notes(runs),
        "readme": {},
        "runs": dict(sorted(runs.items())),
    }
    WAYS_OUT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


class LeNet5(nnx.Module):
    """Caffe's, with 431,080 weights."""

    def __init__(self, rngs: nnx.Rngs):
        self.a = nnx.Conv(1, 20, (5, 5), padding="VALID", rngs=rngs)
        self.b = nnx.Conv(20, 50, (5, 5), padding="VALID", rngs=rngs)
        self.c, self.d = nnx.Linear(800, 500, rngs=rngs), nnx.Linear(500, 10, rngs=rngs)

    def __call__(self, x):
        x = max_pool(self.b(max_pool(self.a(x))))
        return self.d(nnx.relu(self.c(x.reshape(x.shape[0], -1))))


def lenet_300_100(rngs: nnx.Rngs) -> nnx.Module:
    a, b, c = (nnx.Linear(*s, rngs=rngs) for s in ((784, 300), (300, 100), (100, 10)))
    return nnx.Sequential(a, nnx.relu, b, nnx.relu, c)


def size(name: str, model: nnx.Module, x: jax.Array) -> list[str]:
    """A row: bytes of the file with and without zeros, whose outputs must be the same."""
    rule = jsparse.Top(density=0.05)
    model = jsparse.fold(jsparse.sparsify(model, (".*/kernel", rule)))
    files, outputs = [], []
    for sparse in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            jsparse.export.onnx(path, model, x, sparse=sparse)
            files.append(path.read_bytes())
            outputs.append([run(path, np.asarray(x)) for run in (in_onnxruntime, in_openvino)])
    equal = all(np.array_equal(a, b) for a, b in zip(*outputs, strict=True))
    dense, sparse = map(len, files)
    zipped = (f"{len(gzip.compress(file, mtime=0)):,}" for file in files)
    return [name, f"{dense:,}", f"{sparse:,}", f"{sparse / dense:.1%}", *zipped, str(equal).lower()]


def in_onnxruntime(path: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def in_openvino(path: Path, x: np.ndarray) -> np.ndarray:
    import openvino

    core, exact = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(path), "CPU", exact)([x])[0]


def sizes() -> None:
    import onnxruntime
    import openvino

    x = jax.random.normal(jax.random.key(0), (8, 28, 28, 1))
    mlp = size("LeNet-300-100", lenet_300_100(nnx.Rngs(0)), x.reshape(8, 784))
    result = {
        "title": "ONNX files without zeros",
        "about": "Bytes of `export.onnx(..., sparse=True)` against the dense file, untrained nets "
        "with the largest 5 % of the weights of each layer, and both files after gzip. The last "
        "column says whether the outputs are the same to the bit, in onnxruntime and in OpenVINO.",
        "command": "python docs/ways_out.py",
        "hardware": HARDWARE,
        "software": f"jax {jax.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"openvino {openvino.__version__.split('-')[0]}",
        "seeds": "0",
        "columns": ["net", "dense", "sparse", "of dense", "dense, gzip", "sparse, gzip", "equal"],
        "rows": [mlp, size("LeNet-5", LeNet5(nnx.Rngs(0)), x)],
    }
    SIZES.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Write both files."""
    ways_out()
    if importlib.util.find_spec("openvino"):
        sizes()


if __name__ == "__main__":
    main()
