"""What agents that see Pong as pixels know about it: linear maps of their units.

They are fitted on the same frames for all, and judged on frames that are held out.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from experiments.rl import schooling, selfplay
from experiments.rl.dqn import Dqn
from experiments.rl.environments import pong
from experiments.rl.learning import stacked
from experiments.rl.networks import MLP, Kind

UNTRAINED = "untrained"
CLAIMED = ("ball, speed across", "ball, speed up", "landing point")
"""Which of what is probed must be read better from trained agents."""
COURTS, STEPS, STRAY = 64, 250, 0.3
"""Of the frames: courts, of which a quarter is held out, steps, and random moves."""


@partial(jax.jit, static_argnums=1)
def rallies(key: jax.Array, courts: int) -> tuple[jax.Array, pong.Court]:
    """What is watched [STEPS, courts, 8] while both sides follow the ball and often stray."""
    first, *keys = jax.random.split(key, STEPS + 1)

    def step(court: pong.Court, key: jax.Array) -> tuple[pong.Court, tuple]:
        serve, stray, other = jax.random.split(key, 3)
        follow = jnp.stack([pong.follow(court), pong.follow(pong.mirrored(court))])
        random = pong.move(jax.random.randint(other, (2,), 0, pong.ACTIONS))
        moves = jnp.where(jax.random.uniform(stray, (2,)) < STRAY, random, follow)
        new, _, end = pong.step(court, moves, key)
        new = jax.tree.map(partial(jnp.where, end), pong.reset(serve), new)
        return new, (pong.watch(court), court)

    begin = jax.vmap(pong.reset)(jax.random.split(first, courts))
    each = jax.vmap(lambda key: jax.random.split(key, courts))(jnp.stack(keys))
    return jax.lax.scan(jax.vmap(step), begin, each)[1]


def told(court: pong.Court) -> dict[str, np.ndarray]:
    """What is probed, [...] each, of courts [...]."""
    across, up = np.moveaxis(np.asarray(court.velocity), -1, 0)
    x, y = np.moveaxis(np.asarray(court.ball), -1, 0)
    own, other = np.moveaxis(np.asarray(court.paddles), -1, 0)
    land = np.asarray(jax.vmap(jax.vmap(pong.landing))(court))
    names = ("ball, across", "ball, up", *CLAIMED[:2], "own paddle", "other paddle", CLAIMED[2])
    return dict(zip(names, (x, y, across, up, own, other, land), strict=True))


def probe(
    features: np.ndarray, targets: Mapping[str, np.ndarray], held_out: np.ndarray, penalty: float
) -> dict[str, float]:
    """R^2 of ridge regressions on held-out frames; 0 is as good as the mean, 1 is exact.

    Minimizes |y - b - Xw|^2 + penalty n |w|^2, with X standardized on the n frames of the fit.

    Args:
      features: [frames, units].
      targets: [frames] each.
      held_out: [frames], whether a frame is kept from the fit. Frames of one rally resemble each
        other, so they belong on the same side.
      penalty: of the squared weights.

    Returns:
      R^2 of each target.

    Raises:
      ValueError: all frames are on one side.
    """
    fit = ~held_out
    if not fit.any() or fit.all():
        raise ValueError(
            f"held_out is {bool(held_out[0])} for all {len(held_out)} frames; give some to "
            "each side"
        )
    x = np.asarray(features, np.float64)
    mean, spread = x[fit].mean(axis=0), x[fit].std(axis=0)
    x = (x - mean) / np.where(spread > 1e-9, spread, 1.0)
    y = np.stack([*targets.values()], axis=1).astype(np.float64)
    model = Ridge(penalty * fit.sum(), solver="cholesky").fit(x[fit], y[fit])
    found = r2_score(y[held_out], model.predict(x[held_out]), multioutput="raw_values")
    return dict(zip(targets, np.asarray(found).tolist(), strict=True))


def probes(
    dqn: Dqn, arms: Sequence[str], generations: int, iterations: int, seeds: int
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """R^2 by agent, hidden layer and seed, of agents that see two frames."""
    watched, courts = rallies(jax.random.key(0), COURTS)
    held = np.broadcast_to(np.arange(COURTS) % 4 == 0, (STEPS, COURTS)).reshape(-1)
    targets = {name: one.reshape(-1) for name, one in told(courts).items()}
    x = jax.vmap(partial(selfplay.see, "frames"))(watched.reshape(-1, 8))
    agents = schooling.schooled("frames", dqn, Kind(), arms, generations, iterations, seeds)
    new = lambda seed: MLP(x.shape[1], pong.ACTIONS, dqn.width, nnx.Rngs(seed)).layers()
    agents |= {UNTRAINED: stacked([new(seed) for seed in range(1, seeds + 1)])}
    found: dict[str, Any] = {}
    for name, layers in agents.items():
        found[name] = {"first layer": [], "second layer": []}
        for n in range(seeds):
            h = x
            for layer, (kernel, bias) in zip(found[name], layers[:-1], strict=True):
                h = nnx.relu(h @ kernel[n] + bias[n][None])
                found[name][layer].append(probe(np.asarray(h), targets, held, 1e-4))
    return found
