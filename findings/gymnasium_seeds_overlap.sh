#!/usr/bin/env bash
# Runs of 8 parallel environments with seeds 0 to 4 have 12 different environments, not 40.
#
# Guess: envs.reset(seed=run) gives the environments of each run random streams of their own, so runs with different
#   seeds are independent, and a validation with seed 1 shows states that training with seed 0 has not seen.
# Versions: gymnasium 1.4.0, numpy 2.4.6.
# What happens: environment i of a vector is seeded by seed + i (SyncVectorEnv.reset and AsyncVectorEnv.reset). The
#   environments 1 to 7 of run 0 are those of 0 to 6 of run 1: not alike but equal, in all of their episodes, as the
#   stream of an environment that draws only at a reset does not depend on the actions. VecEnv.seed of
#   stable-baselines3 counts in the same way.
# Who is hurt: means and intervals over seeds 0, 1, 2, ..., which take the runs for independent, and evaluations by
#   "another" seed next to that of the training.
# Remedy: a list of seeds drawn from the run's: SeedSequence(run).generate_state(n), or seeds n apart.
#
# Output seen (CartPole-v1, random actions of each run's own, 10 episodes in each environment):
#   environments  seeds         first states  different ones  of run 1, seen in run 0
#   1             0 to 4        50            50              0.000
#   1             drawn         50            50              0.000
#   8             0 to 4        400           120             0.875
#   8             drawn         400           400             0.000
#   32            0 to 4        1600          360             0.969
#   32            drawn         1600          1600            0.000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import gymnasium
import numpy as np

RUNS, EPISODES = 5, 10


def first_states(count, seed, run):
    """The first states of `EPISODES` episodes in each of `count` environments."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=count, vectorization_mode="sync")
    rng = np.random.default_rng(1000 + run)
    observations, _ = envs.reset(seed=seed)
    first = [[tuple(row)] for row in observations.tolist()]
    ended = np.zeros(count, bool)
    while min(len(states) for states in first) < EPISODES:
        observations, _, terminated, truncated, _ = envs.step(rng.integers(2, size=count))
        for i in np.flatnonzero(ended):
            first[i].append(tuple(observations[i].tolist()))
        ended = terminated | truncated
    return {state for states in first for state in states[:EPISODES]}


found = {}
print("environments  seeds         first states  different ones  of run 1, seen in run 0")
for count in (1, 8, 32):
    for name in ("0 to 4", "drawn"):
        runs = []
        for run in range(RUNS):
            drawn = np.random.SeedSequence(run).generate_state(count).tolist()
            runs.append(first_states(count, run if name == "0 to 4" else drawn, run))
        different = len(set.union(*runs))
        shared = len(runs[0] & runs[1]) / len(runs[1])
        found[count, name] = different, shared
        print(f"{count:<14}{name:<14}{RUNS * count * EPISODES:<14}{different:<16}{shared:.3f}")

for count in (1, 8, 32):
    different, shared = found[count, "0 to 4"]
    assert different == (count + RUNS - 1) * EPISODES, "the seeds of the runs no longer overlap"
    assert shared == (count - 1) / count
    assert found[count, "drawn"] == (RUNS * count * EPISODES, 0)
PYTHON
