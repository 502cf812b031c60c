"""Players of brick tic-tac-toe: each takes positions [games] and a key, and returns cells [games].

Random; minimax of depth 2; Monte Carlo tree search (MCTS), which values a leaf by the heuristic;
and a network, alone or with a search by mctx. `play` lets two of them play games side by side.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.rl.environments import brick
from experiments.rl.environments.brick import State
from experiments.rl.networks import Layers, forward

Player = Callable[[State, Array], Array]
EXPLORE = 1.0
"""The constant of UCT."""
NEVER = -1e9
"""The logit of a move that is not allowed; -inf would make a position without moves NaN."""


def _one_of(best: Array, key: Array) -> Array:
    """[games], one of the true ones of [games, cells], at random."""
    return jnp.where(best, jax.random.uniform(key, best.shape), -1.0).argmax(axis=-1)


@jax.jit
def random(state: State, key: Array) -> Array:
    """Any cell that is empty."""
    return _one_of(brick.legal(state), key)


def values(state: State) -> Array:
    """[cells], int32: exact values of all moves of one position at depth 2, in units.

    The lowest number where a move is not allowed.
    """
    size = brick.side(state)
    cells, ends = map(jnp.asarray, brick.inside(size))
    now, allowed = brick.counts(state), brick.legal(state)
    left, most = allowed.sum(), jnp.iinfo(jnp.int32).max
    own = now.own[None] + cells  # after the move, [cells, lines]
    other = (now.other[None] + cells)[None]  # after the reply, [1, cells, lines]
    taken = now.ends[None, None] + ends[:, None] + ends[None]
    leaf = brick.Counts(own[:, None], other, taken, now.free[None, None], now.first[None, None])
    value = jnp.where(left <= 2, 0, brick.heuristic(leaf))
    value = jnp.where((other == brick.ROW).any(axis=-1), -brick.WON, value)
    possible = allowed[None] & ~jnp.eye(size * size, dtype=bool)
    value = jnp.where(left == 1, 0, jnp.where(possible, value, most).min(axis=-1))
    value = jnp.where((own == brick.ROW).any(axis=-1), brick.WON, value)
    return jnp.where(allowed, value, -most)


@jax.jit
def minimax(state: State, key: Array) -> Array:
    """The best move at depth 2; ties are broken at random."""
    value = jax.vmap(values)(state)
    return _one_of(value == value.max(axis=-1, keepdims=True), key)


class Tree(NamedTuple):
    """The tree of a search.

    Attributes:
      children: [nodes, cells], the node after each move, or -1.
      visits: [nodes].
      total: [nodes], the sum of values for who moved there.
    """

    children: Array
    visits: Array
    total: Array


def _squashed(state: State) -> Array:
    """The heuristic in [-1, 1], for the player who moves next: sign(v) (6 + log10 |v|) / 6."""
    value = brick.heuristic(brick.counts(state)) * brick.UNIT
    size = 1 + jnp.log10(jnp.maximum(jnp.abs(value), 1e-6)) / 6
    return jnp.clip(jnp.sign(value) * size, -1, 1)


def _searched(root: State, key: Array, iterations: int) -> Array:
    """[cells], visits of each move after some iterations, each of which adds a node."""
    cells, nodes = root.own.shape[-1], iterations + 1
    order = jax.random.uniform(key, (cells,))

    def choice(tree: Tree, node: Array, state: State) -> Array:
        """UCT; a move that was never tried comes first."""
        child = tree.children[node]
        visits = tree.visits[child]
        bound = tree.total[child] / visits + EXPLORE * jnp.sqrt(jnp.log(tree.visits[node]) / visits)
        bound = jnp.where(child < 0, 1e6 + order, bound)
        return jnp.where(brick.legal(state), bound, -jnp.inf).argmax()

    def iterate(number: Array, tree: Tree) -> Tree:
        def further(place: tuple) -> Array:
            _, state, _, _, child, _ = place
            return (child >= 0) & ~state.ended

        def down(place: tuple) -> tuple:
            depth, state, path, node, child, _ = place
            node = child
            move = choice(tree, node, state)
            state, won = brick.moved(state, move)
            path = path.at[depth].set(node)
            return depth + 1, state, path, node * cells + move, tree.children[node, move], won

        path = jnp.full(cells + 2, nodes)  # what is beyond the tree is not counted
        start = jnp.int32(0), root, path, jnp.int32(0), jnp.int32(0), jnp.bool(False)
        depth, state, path, edge, known, won = jax.lax.while_loop(further, down, start)
        worth = jnp.where(won, 1.0, jnp.where(state.ended, 0.0, -_squashed(state)))  # who moved
        leaf = jnp.where(known < 0, number, known)
        path = path.at[depth].set(leaf)
        sign = jnp.where((depth - jnp.arange(cells + 2)) % 2 == 0, 1.0, -1.0)
        return Tree(
            tree.children.at[edge // cells, edge % cells].set(leaf),
            tree.visits.at[path].add(1, mode="drop"),
            tree.total.at[path].add(sign * worth, mode="drop"),
        )

    none = jnp.zeros(nodes)
    tree = Tree(jnp.full((nodes, cells), -1), none, none)
    tree = jax.lax.fori_loop(1, nodes, iterate, tree)
    child = tree.children[0]
    return jnp.where(child < 0, -1.0, tree.visits[child])


@partial(jax.jit, static_argnames="iterations")
def mcts(state: State, key: Array, iterations: int) -> Array:
    """The most visited move of MCTS; ties are broken at random."""
    search, last = jax.random.split(key)
    keys = jax.random.split(search, len(state.ended))
    visits = jax.vmap(partial(_searched, iterations=iterations))(state, keys)
    best = (visits == visits.max(axis=-1, keepdims=True)) & brick.legal(state)
    return _one_of(best, last)


def judged(layers: Layers, state: State) -> tuple[Array, Array]:
    """A network's estimates: logits of moves [games, cells], and that the next player wins,
    [games]."""
    out = forward(layers, brick.observed(state))
    return jnp.where(brick.legal(state), out[:, :-1], NEVER), jnp.tanh(out[:, -1])


def _mctx() -> Any:
    """The library of searches; imported late, as the other players do not need it."""
    try:
        import mctx
    except ImportError as error:
        raise ImportError("searches with a network need mctx: pip install 'jsparse[rl]'") from error
    return mctx


def _model(layers: Layers, key: Array, action: Array, state: State) -> tuple[Any, State]:
    """The exact rules, as mctx asks for them: a win is paid to who moved, then the sides turn."""
    state, won = brick.moved(state, action)
    logits, value = judged(layers, state)
    output = _mctx().RecurrentFnOutput(
        reward=won.astype(value.dtype), discount=jnp.where(state.ended, 0.0, -1.0),
        prior_logits=logits, value=value,
    )  # fmt: skip
    return output, state


def searched(
    layers: Layers, state: State, key: Array, simulations: int, noise: float
) -> tuple[Array, Array]:
    """A search with Gumbel noise of this scale: moves [games], and the better policy [games,
    cells].

    Reference: Danihelka et al., Policy improvement by planning with Gumbel, ICLR 2022.
    """
    mctx = _mctx()
    logits, value = judged(layers, state)
    found = mctx.gumbel_muzero_policy(
        params=layers, rng_key=key,
        root=mctx.RootFnOutput(prior_logits=logits, value=value, embedding=state),
        recurrent_fn=_model, num_simulations=simulations, gumbel_scale=noise,
        invalid_actions=~brick.legal(state),
    )  # fmt: skip
    return found.action, found.action_weights


@partial(jax.jit, static_argnames="simulations")
def alphazero(layers: Layers, state: State, key: Array, simulations: int) -> Array:
    """The move of a network, by itself with 0 simulations."""
    if simulations:
        return searched(layers, state, key, simulations, 0.0)[0]
    return judged(layers, state)[0].argmax(axis=-1)


_moved = jax.jit(brick.moved)


def play(first: Player, second: Player, bricks: Array, size: int, key: Array) -> Array:
    """Games with bricks on cells [games]: 1 where `first` wins, 0 for a draw, -1, [games].

    The first move of each player is random, so that games differ.
    """
    state = brick.begin(size, bricks)
    outcome = jnp.zeros(len(bricks))
    for ply in range(size * size - 1):
        player = random if ply < 2 else (first, second)[ply % 2]
        state, won = _moved(state, player(state, jax.random.fold_in(key, ply)))
        outcome = jnp.where(won, 1.0 - 2 * (ply % 2), outcome)
        if state.ended.all():
            break
    return outcome
