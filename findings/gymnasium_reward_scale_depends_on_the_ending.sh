#!/usr/bin/env bash
# gymnasium's NormalizeReward makes a goal's reward 51 where episodes terminate, 0.96 where they are truncated.
#
# Guess: it divides by the standard deviation of the discounted return, summed anew in each episode, as
#   VecNormalize of Stable-Baselines3 (and of OpenAI's baselines) does; how an episode ends does not matter for that.
# Versions: gymnasium 1.4.0, stable-baselines3 2.9.2, torch 2.13.0, numpy 2.4.6.
# What happens: the running sum is `sum * gamma * (1 - terminated) + reward`, without anything at reset. Where an
#   episode terminates, the sum so far is dropped before its last reward, and that reward is carried into the next
#   episode; where it is truncated, the sum runs on through all episodes. For a reward given at the goal alone
#   the sum is then nearly constant, its standard deviation tiny and the reward huge, the more the shorter episodes are.
#   The vector wrapper does the same in its default mode.
# Who is hurt: sparse rewards: as the agent learns to reach the goal sooner, the reward, and with it the loss of the
#   value and all gradients, grows tenfold from 100 steps to 5; results beside those with VecNormalize.
# Remedy: VecNormalize; if only the last reward is not 0, env.discounted_reward[:] = 0 before each reset.
#
# Output seen (reward 1 at the last step, 0 before; the normalized reward after 20000 steps):
#   steps  ending      wrapper  vector wrapper  VecNormalize  with the remedy
#   5      terminated  50.89    48.53           2.50          2.50
#   5      truncated   0.96     0.88            2.50          2.50
#   10     terminated  29.20    28.70           3.33          3.33
#   10     truncated   1.69     1.63            3.33          3.33
#   100    terminated  5.34     5.34            10.05         10.05
#   100    truncated   3.38     3.38            10.05         10.05

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    gymnasium==1.4.0 stable-baselines3==2.9.2 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import gymnasium as gym
import numpy as np
from gymnasium.wrappers import NormalizeReward
from gymnasium.wrappers.vector import NormalizeReward as VectorNormalizeReward
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


class Goal(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, steps, ending):
        self.steps, self.ending = steps, ending

    def reset(self, seed=None, options=None):
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        last = self.time >= self.steps
        end = last and self.ending == "terminated", last and self.ending == "truncated"
        return np.zeros(1, np.float32), float(last), *end, {}


def single(steps, ending, remedy=False):
    env = NormalizeReward(Goal(steps, ending))
    env.reset()
    for _ in range(20_000):
        _, reward, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            goal = reward
            if remedy:
                env.discounted_reward[:] = 0
            env.reset()
    return float(np.squeeze(goal))


def vector(env, actions):
    env.reset()
    for _ in range(20_000):
        reward = env.step(actions)[1]
        if reward[0]:
            goal = reward[0]
    return float(goal)


print("steps  ending      wrapper  vector wrapper  VecNormalize  with the remedy")
for steps in (5, 10, 100):
    for ending in ("terminated", "truncated"):
        make = [lambda: Goal(steps, ending)]
        plain, better = single(steps, ending), single(steps, ending, remedy=True)
        many = vector(VectorNormalizeReward(gym.vector.SyncVectorEnv(2 * make)), np.zeros(2, int))
        other = vector(VecNormalize(DummyVecEnv(make), norm_obs=False, clip_reward=np.inf), np.zeros(1, int))
        print(f"{steps:<7}{ending:<12}{plain:<9.2f}{many:<16.2f}{other:<14.2f}{better:.2f}")
        assert abs(better / other - 1) < 0.01
        far = max(plain / other, other / plain), max(many / other, other / many)
        assert min(far) > 1.5, "the return is summed in each episode alone now"
PYTHON
