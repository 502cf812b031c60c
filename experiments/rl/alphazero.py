"""AlphaZero on brick tic-tac-toe, with sparse networks or dense ones.

1. The network plays games side by side against itself, a new one where one ends. Each move comes
   from a search by mctx on the exact rules; in every other lane of games, the first move of each
   player is random.
2. Positions of the last iterations are kept, with the better policy that the search found and with
   the outcome for the player who moved, if the game ended within the iteration.
3. The network regresses on both: cross-entropy and half the squared distance. Each position is
   rotated or flipped at random, but never to a brick that does not occur in play.
4. Sparse networks: weights are masked as they are read, and revisions move the masks after the step
   of the optimizer.

The published code has searches by PUCT with Dirichlet noise, a convolutional network, SGD and a
memory of 6,000 positions; the choices here are ours.

Reference: Silver et al., A general reinforcement learning algorithm that masters chess, shogi and
Go through self-play, Science 362 (2018); Danihelka et al., Policy improvement by planning with
Gumbel, ICLR 2022.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments.rl import players
from experiments.rl.environments import brick
from experiments.rl.learning import Agent, chosen
from experiments.rl.networks import MLP, Kind, Layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlphaZero:
    """Settings of the algorithm."""

    width: int = 256
    """Units of both hidden layers."""
    games: int = 64
    """Played side by side; an iteration has twice as many moves as the longest game."""
    simulations: int = 16
    """Of the search for a move."""
    memory: int = 8
    """Iterations whose positions are kept."""
    updates: int = 48
    """After the games of an iteration."""
    batch: int = 256
    """Positions of an update."""
    learning_rate: float = 2e-3
    """Of AdamW, at the start; it falls to 0 along a cosine."""
    decay: float = 1e-4
    """Of the weights."""
    every: int = 200
    """Updates between changes of the masks."""
    fraction: float = 0.2
    """Of a matrix's links, exchanged at each change."""
    settle: float = 0.25
    """Fraction of the updates at the end in which masks stay."""


class Played(NamedTuple):
    """Positions of games, [games, plies, ...] each.

    Attributes:
      own: [cells], 1 at the stones of who moves.
      other: [cells].
      brick: the cell.
      policy: [cells], of the search.
      outcome: 1 where who moves wins, 0 for a draw, -1.
      known: 1 where the outcome is known, else 0.
    """

    own: Array
    other: Array
    brick: Array
    policy: Array
    outcome: Array
    known: Array


def turns(size: int, bricks: tuple[int, ...]) -> np.ndarray:
    """[8, cells], the symmetry to use instead of each, for a brick on each cell.

    Where a symmetry would move the brick to a cell that is not in use, none is applied.
    """
    to = np.argsort(brick.symmetries(size), axis=1)  # where each cell goes
    return np.where(np.isin(to, bricks), np.arange(8)[:, None], 0)


class Trainer:
    """Compiled iterations of an agent that is held as a tree of arrays.

    Boards have `size` rows, and a brick on one of the cells `bricks`.
    """

    def __init__(
        self, settings: AlphaZero, kind: Kind, size: int, bricks: tuple[int, ...], iterations: int
    ):
        self.settings, self.kind, self.size = settings, kind, size
        self.game, self.iterations = brick.Brick(size, bricks), iterations
        self.train, self.play = jax.jit(self._train, donate_argnums=0), jax.jit(self._play)
        self.layers = jax.jit(lambda state: jsparse.resolve(self.agent(state).network).layers())

    def start(self, seed: int) -> dict[str, Any]:
        """A new agent and an empty memory."""
        cells, own = self.size**2, self.settings
        net = MLP(3 * cells, cells + 1, own.width, nnx.Rngs(seed))
        net = self.kind.start(net, jax.random.key(seed))
        total = self.iterations * own.updates
        rate = optax.cosine_decay_schedule(own.learning_rate, total)
        last = max(1, round((1 - own.settle) * total))
        every = min(own.every, last)
        when = {"first": every, "every": every, "last": last, "fraction": own.fraction}
        tx = optax.adamw(rate, weight_decay=own.decay)
        self._graph, state = nnx.split(Agent(net, tx, self.kind, seed, **when))
        shape = own.memory, own.games, self.plies
        boards, one = jnp.zeros((*shape, cells), jnp.int8), jnp.zeros(shape, jnp.int8)
        start = {
            "agent": state,
            "games": self._new(jax.random.key(seed)),
            "memory": Played(boards, boards, one, jnp.zeros((*shape, cells)), one, one),
            "done": jnp.int32(0),
        }
        return jax.tree.map(jnp.copy, start)  # training uses it up

    @property
    def plies(self) -> int:
        """Moves of an iteration."""
        return 2 * (self.size**2 - 1)

    def _new(self, key: Array) -> brick.State:
        return jax.vmap(self.game.reset)(jax.random.split(key, self.settings.games))

    def agent(self, state: dict[str, Any]) -> Agent:
        """The agent of a state."""
        return nnx.merge(self._graph, state["agent"])

    def _play(self, layers: Layers, state: brick.State, key: Array) -> tuple[brick.State, Played]:
        """1., a number of moves of all games, and the games after them."""
        own = self.settings
        opened = jnp.arange(own.games) % 2 == 0

        def move(state: brick.State, key: Array) -> tuple[brick.State, tuple]:
            search, luck, begin = jax.random.split(key, 3)
            action, policy = players.searched(layers, state, search, own.simulations, 1.0)
            early = (state.own + state.other).sum(axis=-1) < 2
            action = jnp.where(opened & early, players.random(state, luck), action)
            new, won = brick.moved(state, action)
            over, fresh = new.ended, self._new(begin)
            return chosen(over, fresh, new), (state, policy, won, over)

        def back(after: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple, tuple]:
            (outcome, known), (won, over) = after, at
            outcome = jnp.where(over, won.astype(jnp.int8), -outcome)
            both = outcome, jnp.where(over, 1, known)
            return both, both

        state, (seen, policy, *ends) = jax.lax.scan(move, state, jax.random.split(key, self.plies))
        none = jnp.zeros(own.games, jnp.int8)
        _, (outcome, known) = jax.lax.scan(back, (none, none), tuple(ends), reverse=True)
        small = lambda leaf: leaf.astype(jnp.int8)
        place = small(seen.brick.argmax(axis=-1))
        found = Played(small(seen.own), small(seen.other), place, policy, outcome, known)
        return state, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)

    def _batches(self, memory: Played, rounds: Array, key: Array) -> Played:
        """3., positions of all updates, [updates, batch, ...]."""
        own = self.settings
        pick, turn = jax.random.split(key)
        shape, stored = (own.updates, own.batch), jnp.minimum(rounds, own.memory)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[3:]), memory)
        index = jax.random.randint(pick, shape, 0, stored * own.games * self.plies)
        found = jax.tree.map(lambda leaf: leaf[index], flat)
        allowed = jnp.asarray(turns(self.size, self.game.bricks))
        which = allowed[jax.random.randint(turn, shape, 0, 8), found.brick]
        order = jnp.asarray(brick.symmetries(self.size))[which]
        board = lambda leaf: jnp.take_along_axis(leaf, order, axis=-1)
        to = jnp.argsort(jnp.asarray(brick.symmetries(self.size)), axis=1)
        return found._replace(
            own=board(found.own), other=board(found.other), policy=board(found.policy),
            brick=to[which, found.brick],
        )  # fmt: skip

    def _loss(self, net: Any, given: Played) -> Array:
        """3., []."""
        cells = self.size**2
        where = jax.nn.one_hot(given.brick, cells)
        boards = [given.own.astype(where.dtype), given.other.astype(where.dtype), where]
        out = net(jnp.concatenate(boards, axis=-1))
        taken = sum(boards) > 0
        logits = jnp.where(taken, players.NEVER, out[:, :cells])
        policy = optax.softmax_cross_entropy(logits, jnp.where(taken, 0.0, given.policy))
        value = given.known * (jnp.tanh(out[:, cells]) - given.outcome) ** 2
        return (policy + value / 2).mean()

    def _train(self, state: dict[str, Any], key: Array) -> tuple[dict[str, Any], Array]:
        """An iteration: the new state, and the losses of its updates."""
        play, pick = jax.random.split(key)
        layers = jsparse.resolve(self.agent(state).network).layers()
        games, new = self._play(layers, state["games"], play)
        done = state["done"]
        slot = done % self.settings.memory
        put = lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, slot, 0)
        memory = jax.tree.map(put, state["memory"], new)
        batches = self._batches(memory, done + 1, pick)

        def update(state: Any, given: Played) -> tuple[Any, Array]:
            agent = nnx.merge(self._graph, state)
            loss = agent.improve(partial(self._loss, given=given))
            return nnx.state(agent), loss

        agent, losses = jax.lax.scan(update, state["agent"], batches)
        return {"agent": agent, "games": games, "memory": memory, "done": done + 1}, losses
