#!/usr/bin/env bash
# gymnasium.make_vec of an Atari game is not a vector of gymnasium.make: pictures, rewards and episodes differ.
#
# Guess: make_vec("ALE/Breakout-v5", num_envs=n) is n times make("ALE/Breakout-v5"), batched; its way of running them
#   (sync, async, or an implementation of its own) is a matter of speed.
# Versions: ale-py 0.12.1, gymnasium 1.4.0, numpy 2.4.6.
# What happens: the game registers AtariVectorEnv as its vector_entry_point, which make_vec prefers. It preprocesses:
#   four stacked gray 84 x 84 pictures in place of one 210 x 160 in color, up to 30 no-ops at the start, the
#   largest of two frames, rewards clipped to -1, 0 and 1. Scores of games that give more than 1 a time are counts of
#   rewards. Its spec still lists the arguments of make alone.
# Who is hurt: whoever trains by make_vec and evaluates by make, or reports the returns of make_vec beside
#   published scores.
# Remedy: make_vec(..., vectorization_mode="sync"), or reward_clipping=False and the other arguments in make_vec.
#
# Output seen (Ms. Pac-Man, 400 random steps):
#                              observation         rewards
#   make                       (210, 160, 3)       [0.0, 10.0]
#   make_vec                   (4, 84, 84)         [0.0, 1.0]
#   make_vec, unclipped        (4, 84, 84)         [0.0, 10.0]
#   make_vec, sync             (210, 160, 3)       [0.0, 10.0]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import ale_py
import gymnasium
import numpy as np

gymnasium.register_envs(ale_py)
GAME = "ALE/MsPacman-v5"


def rewards(env, steps=400):
    """Different rewards that random actions give."""
    env.reset(seed=0)
    env.action_space.seed(0)
    return sorted({float(r) for _ in range(steps) for r in np.ravel(env.step(env.action_space.sample())[1])})


one = gymnasium.make(GAME)
print(f"{'':<27}{'observation':<20}rewards")
print(f"{'make':<27}{str(one.observation_space.shape):<20}", end="")
found = {"make": [0.0]}
one.reset(seed=0)
one.action_space.seed(0)
for _ in range(400):
    _, reward, terminated, truncated, _ = one.step(one.action_space.sample())
    found["make"].append(float(reward))
    if terminated or truncated:
        one.reset()
found["make"] = sorted(set(found["make"]))
print(found["make"])
for name, options in (
    ("make_vec", {}),
    ("make_vec, unclipped", {"reward_clipping": False}),
    ("make_vec, sync", {"vectorization_mode": "sync"}),
):
    env = gymnasium.make_vec(GAME, num_envs=2, **options)
    found[name] = rewards(env)
    print(f"{name:<27}{str(env.single_observation_space.shape):<20}{found[name]}")
    if not options:
        assert env.single_observation_space.shape == (4, 84, 84), "make_vec gives the pictures of make now"
        assert "reward_clipping" not in env.spec.kwargs
assert max(found["make"]) >= 10 and max(found["make_vec, sync"]) >= 10
assert max(found["make_vec, unclipped"]) >= 10
assert set(found["make_vec"]) == {0.0, 1.0}, "make_vec gives the rewards of make now"
PYTHON
