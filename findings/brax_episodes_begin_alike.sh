#!/usr/bin/env bash
# Every episode of a Brax environment begins in the same state: a reset at the end of an episode draws nothing.
#
# Guess: with auto_reset=True, the default of brax.envs.create, an episode that ends is followed by env.reset with a
#   new key, so the first states are as random as those of reset.
# Versions: brax 0.14.2, jax 0.10.2, mujoco-mjx 3.17.0, on a CPU (mujoco-mjx is what brax asks for).
# What happens: AutoResetWrapper (brax/envs/wrappers/training.py) keeps the first state of the first episode and puts
#   it back after each end. The training of n parallel environments sees n first states in all, however long
#   it is, and one environment sees one.
# Who is hurt: training on few environments, tests of generalization to first states, and evaluations: the episodes
#   of one environment under a deterministic policy are all one episode, so their spread is zero.
# Remedy: env.reset with a new key between rollouts, as brax's own training does for num_resets_per_eval > 0.
#
# Output seen (20 episodes after each other in each environment):
#   environments  episodes  different first states  different returns in environment 0
#   1             20        1                       1
#   4             80        4                       1

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet brax==0.14.2 jax==0.10.2 jaxlib==0.10.2 mujoco-mjx==3.17.0 mujoco==4.0.0
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
from brax import envs

print("environments  episodes  different first states  different returns in environment 0")
for count in (1, 4):
    env = envs.create("inverted_pendulum", episode_length=10, backend="spring", batch_size=count)
    step, act = jax.jit(env.step), jnp.full((count, env.action_size), 0.3)
    state = env.reset(jax.random.PRNGKey(0))
    first, returns, total = [np.asarray(state.obs)], [], 0.0
    while len(first) < 20:
        state = step(state, act)
        total += float(state.reward[0])
        if state.done.any():
            assert state.done.all()
            first.append(np.asarray(state.obs))
            returns.append(total)
            total = 0.0
    different = len(np.unique(np.concatenate(first), axis=0))
    episodes = len(first) * count
    print(f"{count:<14}{episodes:<10}{different:<24}{len(set(returns))}")
    assert different == count, "resets draw new states now"
    drawn = [np.asarray(env.reset(jax.random.PRNGKey(seed)).obs) for seed in range(3)]
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 3 * count
PYTHON
