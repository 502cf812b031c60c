#!/usr/bin/env bash
# Making gymnasium's HalfCheetah-v5 leaves a file in the working folder, and Python hears nothing of it.
#
# Guess: gymnasium.make builds an environment in memory; if the physics engine has something to say about
#   the stock model, it comes as a Python warning, which `-W error` or a filter catches.
# Versions: gymnasium 1.4.0, mujoco 4.0.0.
# What happens: mujoco 4 deprecates `settotalmass`, which the stock model of HalfCheetah uses. The compiler's
#   warning goes to MUJOCO_LOG.TXT in the working folder, one more entry for each environment made, and to
#   stderr from C, past sys.stderr and the warnings module. Hopper and Walker2d leave no file.
# Who is hurt: an experiment run from a checkout leaves an untracked file that `git add -A` takes along (it
#   has the times of all runs), and replay workers of one folder write into the same file.
# Remedy: ignore MUJOCO_LOG.TXT in git, or set mujoco.set_mju_user_warning before the first environment.
#
# Output seen:
#   HalfCheetah-v5: 1 environment, MUJOCO_LOG.TXT has 1 warning; Python saw 0
#   HalfCheetah-v5: 3 environments, MUJOCO_LOG.TXT has 3 warnings; Python saw 0
#   Hopper-v5, Walker2d-v5: no more

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "gymnasium[mujoco]==1.4.0" mujoco==4.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import contextlib
import io
import pathlib
import warnings

import gymnasium
import mujoco

log = pathlib.Path("MUJOCO_LOG.TXT")
heard = io.StringIO()


def entries():
    return log.read_text().count("settotalmass") if log.exists() else 0


with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(heard):
    warnings.simplefilter("always")
    gymnasium.make("HalfCheetah-v5")
    one = entries()
    for _ in range(2):
        gymnasium.make("HalfCheetah-v5")
    three = entries()
    for name in ("Hopper-v5", "Walker2d-v5"):
        gymnasium.make(name)
python = sum("settotalmass" in str(warning.message) for warning in caught)
python += heard.getvalue().count("settotalmass")
print(f"HalfCheetah-v5: 1 environment, MUJOCO_LOG.TXT has {one} warning; Python saw {python}")
print(f"HalfCheetah-v5: 3 environments, MUJOCO_LOG.TXT has {three} warnings; Python saw {python}")
assert (one, three, python) == (1, 3, 0), "it is different now"
assert entries() == three
print("Hopper-v5, Walker2d-v5: no more")
assert hasattr(mujoco, "set_mju_user_warning"), "the remedy is gone"
PYTHON
