"""A process that saves on a full disk: no file may be longer than LIMIT bytes.

    python -m tests.support.full_disk FOLDER LIMIT

Prints a line of JSON: by what was saved, the error and how many lines its traceback has.
"""

import json
import resource
import sys
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsparse as js
from experiments.common.run import open_run

SIZE = 100_000


def main(folder: Path, limit: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    drawn = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)  # does not compress
    model = nnx.Linear(SIZE // 10, 10, rngs=nnx.Rngs(0))
    model.kernel[...] = jnp.asarray(drawn.reshape(SIZE // 10, 10))
    x, held = jnp.ones((1, SIZE // 10)), js.sparsify(model, ("kernel", js.Held()))
    half = js.sparsify(model, ("kernel", js.Top(density=0.5)))
    keep = js.prune.Folder(folder / "rounds")
    keep.open({})
    run = open_run(folder / "run", js.Held())
    run.log(1, loss=1.0)
    saves = {
        "checkpoints": lambda: js.Checkpoints(folder / "checkpoints").save(2, {"a": drawn}),
        "rounds": lambda: keep.save(0, held, {"asked": 1.0}),
        "tried": lambda: keep.add({"kept": list(range(SIZE)), "cost": 1.0}),
        "settings": lambda: js.prune.Folder(folder / "new", {"a": "x" * SIZE}).open({}),
        "model": lambda: js.export.save(folder / "of" / "model", model, x),
        "report": lambda: js.report.save(half, folder / "report"),
        "run": lambda: run.log(2, text="x" * SIZE),
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    said = {}
    for what, save in saves.items():
        try:
            save()
        except OSError as error:
            said[what] = str(error), len("".join(traceback.format_exception(error)).splitlines())
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
