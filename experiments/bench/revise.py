"""What dynamic masks cost compared with static ones.

Claim: a step that changes the masks takes less than two train steps with stored masks, and a run of
    RigL, whose masks change every 100 steps, at most 1.1 times a run with static masks.
Command: python -m experiments.bench.revise
Minutes: 2 on two otherwise idle cores.

A step is SGD with momentum on a donated state, at density 0.1. Each number is the median over
rounds of the ratio within a round, with quartiles; all contenders take turns.
"""

import dataclasses
import os
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import jsparse
from experiments import common
from experiments.bench.networks import KERNELS, NETWORKS, Network
from experiments.bench.rounds import Here, Load, in_turns, made_with, ratio
from experiments.common.sweep import updated

DENSITY, EVERY, FAR = 0.1, 100, 10**9
INNER = optax.sgd(1e-6, momentum=0.9)  # so small a rate that the state stays where it is
ALWAYS = {
    "RigL": jsparse.RigL(last=FAR, every=1),
    "SET": jsparse.SET(last=FAR, every=1),
    "Gradual": jsparse.Gradual(density=DENSITY, start=DENSITY, last=FAR),
    "TopKAST": jsparse.TopKAST(density=DENSITY, backward=2 * DENSITY),
}
"""Each with a change of the masks at every step."""
Name = Literal["lenet-300-100", "mlp-1024"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    rounds: int = 15
    """Samples of each candidate."""
    only: tuple[Name, ...] = ("lenet-300-100", "mlp-1024")
    """Networks to measure."""


def held(network: Network) -> nnx.Module:
    """The network with random masks."""
    model = jsparse.sparsify(network.make(nnx.Rngs(0)), (KERNELS, jsparse.Held()))
    draw = lambda n, mask: jax.random.uniform(jax.random.key(n), mask.shape) < DENSITY
    masks = jsparse.masks(model)
    return jsparse.hold(model, {path: draw(n, m) for n, (path, m) in enumerate(masks.items())})


def train_step(graphdef: Any, tx: Any, batch: tuple, state: Any) -> tuple[Any, jax.Array]:
    """(what is trained, optax state) to the next ones, and the loss, []."""
    trained, rest, optimizer = state

    def loss_of(trained: Any) -> jax.Array:
        logits = nnx.merge(graphdef, trained, rest, copy=True)(batch[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    loss, grads = jax.value_and_grad(loss_of)(trained)
    trained, optimizer = updated(tx, grads, optimizer, trained)
    return (trained, rest, optimizer), loss


def candidate(network: Network, tx: Any, wrt: Any, steps: int) -> Here:
    """The jitted train step, or many in a scan."""
    graphdef, trained, rest = nnx.split(held(network), wrt, ...)
    batch = tuple(jnp.asarray(part) for part in network.draw(np.random.default_rng(0)))
    once = partial(train_step, graphdef, tx, batch)
    many = lambda state: jax.lax.scan(lambda s, _: once(s), state, length=steps)
    jitted = jax.jit(many if steps > 1 else once, donate_argnums=0)
    return Here(jitted, jax.tree.map(jnp.array, (trained, rest, tx.init(trained))), steps)


def measure(name: str, network: Network, rounds: int) -> None:
    """One step of each revision and a run of RigL against static masks; prints two tables."""
    static = "static masks"
    fixed = partial(candidate, network, INNER, nnx.Param)
    moved = lambda by, steps: candidate(
        network, jsparse.revise(INNER, (".*", by)), (nnx.Param, jsparse.Mask), steps
    )
    updates = {f"{what}, a mask update": moved(by, 1) for what, by in ALWAYS.items()}
    rigl = moved(jsparse.RigL(last=FAR, every=EVERY), EVERY)
    per_update = {static: fixed(1), **updates}
    runs = {static: fixed(EVERY), f"RigL, a change in {EVERY} steps": rigl}
    for title, candidates, goal in (("a step", per_update, 2), ("a run", runs, 1.1)):
        load = Load()
        times = in_turns(candidates, rounds)
        rows = [
            [what, f"{1000 * np.median(taken):.3f}", *ratio(taken, times[static])]
            for what, taken in times.items()
        ]
        print(f"\n{name}, {title}: density {DENSITY}, goal {goal}; {load}")
        print(common.table(["step", "ms", "/ static", "quartiles"], rows), flush=True)


def main(settings: Settings) -> None:
    """Measure network by network."""
    print(f"{jax.default_backend()}, {os.cpu_count()} cores")
    print(made_with(rounds=settings.rounds))
    for name in settings.only:
        measure(name, NETWORKS[name], settings.rounds)
        jax.clear_caches()


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
