#!/usr/bin/env bash
# copy.deepcopy of a MuJoCo or Atari environment in the middle of an episode is at the start, with the clock run on.
#
# Guess: a deep copy of an environment is in the same state, so the same action gives the same observation in both, as
#   with CartPole; where the simulator cannot be copied, it raises.
# Versions: gymnasium 1.4.0, mujoco 4.0.0, ale-py 0.12.1, numpy 2.4.6.
# What happens: these classes inherit from EzPickle (gymnasium/utils/ezpickle.py), whose state is the arguments of the
#   constructor: copy and pickle make a new environment from them. The wrappers around it are copied as they are, so
#   TimeLimit goes on counting and the check that reset was called is satisfied. The copy answers to step at once, from
#   the pose of the model file, which no reset draws: it has no noise. In Atari it is the first frame of the game.
# Who is hurt: searches and Monte Carlo returns that branch from a state by deepcopy, written and tested on CartPole;
#   checkpoints that pickle an environment. Rewards are plausible and belong to another state.
# Remedy: for MuJoCo set_state(data.qpos, data.qvel) of the copy's unwrapped environment after its reset; for Atari
#   clone_state() and restore_state(state) of the unwrapped one.
#
# Output seen (10 steps, then the same action in the environment and in its copy):
#   environment      way       steps on the clock  same observation  largest difference
#   CartPole-v1      deepcopy  10                  True              0.00
#   CartPole-v1      pickle    10                  True              0.00
#   Pendulum-v1      deepcopy  10                  True              0.00
#   Pendulum-v1      pickle    10                  True              0.00
#   Hopper-v5        deepcopy  10                  False             1.41
#   Hopper-v5        pickle    10                  False             1.41
#   Ant-v5           deepcopy  10                  False             18.87
#   Ant-v5           pickle    10                  False             18.87
#   Reacher-v5       deepcopy  10                  False             8.80
#   Reacher-v5       pickle    10                  False             8.80
#   ALE/Breakout-v5  deepcopy  None                False             200.00
#   ALE/Breakout-v5  pickle    None                False             200.00

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "gymnasium[mujoco]==1.4.0" mujoco==4.0.0 ale-py==0.12.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import copy
import pickle

import ale_py
import gymnasium
import numpy as np

gymnasium.register_envs(ale_py)
ways = {"deepcopy": copy.deepcopy, "pickle": lambda env: pickle.loads(pickle.dumps(env))}
print("environment      way       steps on the clock  same observation  largest difference")
for name in ("CartPole-v1", "Pendulum-v1", "Hopper-v5", "Ant-v5", "Reacher-v5", "ALE/Breakout-v5"):
    for way, duplicate in ways.items():
        env = gymnasium.make(name)
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(10):
            assert not env.step(env.action_space.sample())[2], "the episode is over"
        other = duplicate(env)
        clock = getattr(other, "_elapsed_steps", None)
        action = env.action_space.sample()
        mine, copied = (np.asarray(e.step(action)[0], float) for e in (env, other))
        same, difference = bool(np.array_equal(mine, copied)), np.abs(mine - copied).max()
        print(f"{name:<17}{way:<10}{clock!s:<20}{same!s:<18}{difference:.2f}")
        assert same == (name in ("CartPole-v1", "Pendulum-v1")), f"{name} is no longer as it was"
        if name in ("Hopper-v5", "Ant-v5"):
            assert clock == 10
            fresh = duplicate(env).unwrapped
            assert np.array_equal(fresh.data.qpos, fresh.init_qpos) and not fresh.data.qvel.any()
            fresh.set_state(env.unwrapped.data.qpos, env.unwrapped.data.qvel)
            assert np.allclose(fresh.step(action)[0], env.step(action)[0], atol=1e-3), "the remedy is none"
PYTHON
