"""A process that writes to folders, and then waits to be killed.

python -m tests.support.writer FOLDER
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import jsparse as js
from experiments.common.run import open_run


def main(folder: Path) -> None:
    jax.config.update("jax_platforms", "cpu")
    checkpoints = js.Checkpoints(folder / "checkpoints")
    checkpoints.save(1, jnp.ones(2))
    keep = js.prune.Folder(folder / "rounds")
    keep.open({})
    run = open_run(folder / "run", js.Held())
    print("writes", flush=True)
    time.sleep(600)
    del checkpoints, keep, run


if __name__ == "__main__":
    main(Path(sys.argv[1]))
