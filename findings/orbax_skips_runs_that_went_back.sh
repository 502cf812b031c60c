#!/usr/bin/env bash
# After going back to an earlier checkpoint, Orbax saves nothing more, and a restart gives the run that was given up.
#
# Guess: CheckpointManager.save(step) with save_interval_steps=1 writes each step that does not exist yet, overwrites or
#   refuses one that does, and restore() of the latest gives what was saved last.
# Versions: orbax-checkpoint 0.12.8, jax 0.10.2, numpy 2.4.6.
# What happens: save returns False, without a message or an exception, for each step that is not above the largest one
#   in the folder (CheckpointManager.should_save). A run that restores step 20 of 50, for example with a smaller
#   learning rate, is not saved before step 51. If it ends earlier, restore() gives step 50 of the first run.
# Who is hurt: going back after a divergence, second runs in the folder of a first, and steps that count from 0 again,
#   as for each phase of a training.
# Remedy: manager.delete(step) for the steps above the restored one, and a look at what save returns.
#
# Output seen (the checkpoint holds the number of the run; run 1 saves steps 10 to 50, run 2 goes back to 20):
#                         saved by run 1  saved by run 2  restored: step  run
#   as it is              5 of 5          0 of 4          50              1
#   later steps deleted   5 of 5          4 of 4          45              2

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W ignore - "$folder" 2>/dev/null <<'PYTHON'
import sys

import numpy as np
import orbax.checkpoint as ocp


def tree(run):
    return {"run": np.array([run])}


def restarted(name, remedy):
    """What two runs save, and the step and the run that a new process restores."""
    folder = f"{sys.argv[1]}/{name}"
    with ocp.CheckpointManager(folder) as manager:
        first = [manager.save(step, args=ocp.args.StandardSave(tree(1))) for step in (10, 20, 30, 40, 50)]
    with ocp.CheckpointManager(folder) as manager:
        manager.restore(20, args=ocp.args.StandardRestore(tree(0)))
        if remedy:
            for step in (30, 40, 50):
                manager.delete(step)
        second = [manager.save(step, args=ocp.args.StandardSave(tree(2))) for step in (25, 30, 35, 45)]
    with ocp.CheckpointManager(folder) as manager:
        step = manager.latest_step()
        run = manager.restore(step, args=ocp.args.StandardRestore(tree(0)))["run"]
    return sum(first), sum(second), step, int(run[0])


print("                      saved by run 1  saved by run 2  restored: step  run")
found = {}
for name, remedy in (("as it is", False), ("later steps deleted", True)):
    found[name] = first, second, step, run = restarted(name.replace(" ", "_"), remedy)
    print(f"{name:<22}{first} of 5          {second} of 4          {step:<16}{run}")
assert found["as it is"] == (5, 0, 50, 1), "steps below the latest are saved now"
assert found["later steps deleted"] == (5, 4, 45, 2)
PYTHON
