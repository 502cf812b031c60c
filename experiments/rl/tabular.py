"""Q-learning in a table on a product of grid and automaton, many seeds side by side."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.rl.environments.grids import Product

CHUNK = 500
"""Steps whose random numbers are drawn at once."""
SMALLEST = 1024
"""The least number of states of a padded product."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """How a table is learned.

    Attributes:
      start: of all values.
      discount: of a step that is not rewarded.
      rate: of learning, at the first step; it falls linearly over 80 % of all steps.
      last: what it falls to.
      explore: the probability of a random move.
      limit: steps of an episode.
      greedy: whether a random move, too, changes the value of the greedy action.
      replays: how often the last steps are learned from once more, the latest first, by which a
        reward reaches all that led to it.
    """

    start: float = 0.1
    discount: float = 0.98
    rate: float = 0.5
    last: float = 0.02
    explore: float = 0.05
    limit: int = 4000
    greedy: bool = False
    replays: int = 1


PUBLISHED = Rates(start=0.0, discount=1.0, rate=0.9, last=0.1, explore=0.1, greedy=True, replays=0)
"""The defaults of the authors' code and of its sample script."""


class Learner(NamedTuple):
    """Tables of all seeds, and where each of them is.

    Attributes:
      table: [seeds, seen, actions].
      state: [seeds].
      age: [seeds], steps of the episode.
      episodes: [seeds], ended so far.
      key: [seeds].
    """

    table: Array
    state: Array
    age: Array
    episodes: Array
    key: Array


def begin(made: Product, rates: Rates, seeds: int) -> Learner:
    """Nothing learned."""
    zero = jnp.zeros(seeds, jnp.int32)
    shape = seeds, int(made.seen.max()) + 1, made.nexts.shape[1]
    keys = jax.random.split(jax.random.key(0), seeds)
    return Learner(jnp.full(shape, rates.start), zero + made.start, zero, zero, keys)


def padded(made: Product) -> Product:
    """The product with states that are never met, so that many products share one program.

    States, and what is seen of them, are then 8**k times `SMALLEST`, the least k that is enough.
    """
    size = SMALLEST
    while size < len(made.nexts):
        size *= 8
    more = size - len(made.nexts)
    wide = lambda rows, value: np.pad(rows, ((0, more), (0, 0)), constant_values=value)
    return made._replace(
        nexts=wide(made.nexts, 0), accepted=wide(made.accepted, False),
        ended=wide(made.ended, True), allowed=wide(made.allowed, True),
        seen=np.pad(made.seen, (0, more), constant_values=size - 1),
    )  # fmt: skip


def on_device(made: Product) -> Product:
    """The product as arrays that `learn` takes."""
    return jax.tree.map(jnp.asarray, made._replace(slip=float(made.slip)))


@partial(jax.jit, static_argnames="rates")
def learn(
    learner: Learner, made: Product, rates: Rates, chunks: Array, done: Array, total: Array
) -> Learner:
    """Some chunks of steps, given the steps done and the total."""

    def one(learner: Learner) -> Learner:
        def chunk(n: Array, learner: Learner) -> Learner:
            key, draw = jax.random.split(learner.key)
            luck = jax.random.uniform(draw, (CHUNK, 4 + learner.table.shape[1]))
            rate = rates.rate + (rates.last - rates.rate) * (done + n * CHUNK) / total / 0.8
            rate = jnp.maximum(rates.last, rate)

            def step(at: Learner, luck: Array) -> tuple[Learner, tuple]:
                at, happened = _step(at, made, rates, luck)
                return at._replace(table=_learned(at.table, made, rates, rate, happened)), happened

            learner, past = jax.lax.scan(step, learner._replace(key=key), luck)
            again = lambda table, one: (_learned(table, made, rates, rate, one), None)
            table = learner.table
            for _ in range(rates.replays):
                table, _ = jax.lax.scan(again, table, past, reverse=True)
            return learner._replace(table=table)

        return jax.lax.fori_loop(0, chunks, chunk, learner)

    return jax.vmap(one)(learner)


def _step(at: Learner, made: Product, rates: Rates, luck: Array) -> tuple[Learner, tuple]:
    """A step with random numbers in [0, 1); and the state, what is credited and what came of it."""
    values = jnp.where(made.allowed[at.state], at.table[made.seen[at.state]], -jnp.inf)
    greedy = jnp.argmax(values + 1e-6 * luck[4:])  # ties are broken at random
    draw = lambda u: jnp.floor(u * made.moves).astype(greedy.dtype)
    action = jnp.where(luck[0] < rates.explore, draw(luck[1]), greedy)
    slips = (luck[2] < made.slip) & (action < made.moves)
    happened = jnp.where(slips, draw(luck[3]), action)
    over = made.ended[at.state, happened] | (at.age + 1 >= rates.limit)
    new = jnp.where(over, made.start, made.nexts[at.state, happened]).astype(at.state.dtype)
    age, episodes = jnp.where(over, 0, at.age + 1), at.episodes + over
    past = at.state, greedy if rates.greedy else action, happened
    return at._replace(state=new, age=age, episodes=episodes), past


def _learned(table: Array, made: Product, rates: Rates, rate: Array, past: tuple) -> Array:
    """The table [seen, actions] after a step."""
    state, credited, happened = past
    new = made.nexts[state, happened]
    ahead = jnp.where(made.allowed[new], table[made.seen[new]], -jnp.inf).max()
    reward = made.accepted[state, happened].astype(table.dtype)
    target = jnp.where(made.ended[state, happened], reward, rates.discount * ahead)
    at = made.seen[state], credited
    return table.at[at].add(rate * (target - table[at]))


def policy(made: Product, table: np.ndarray) -> np.ndarray:
    """[states], the greedy action of what is seen: table [seen, actions]."""
    return np.where(made.allowed, table[made.seen], -np.inf).argmax(axis=1)
