"""Self-play of brick tic-tac-toe against PyTorch, and what an iteration with masks costs.

Both sides: 5 x 5 cells, the same fresh network 75-256-256-26, 64 games side by side, a new one
where one ends, 16 simulations per move, without learning. Ours is the self-play of
`experiments.rl`, Gumbel search by mctx, compiled. Theirs is AlphaZero's search by PUCT with
Dirichlet noise, written for this in plain PyTorch: all games are searched at once by operations on
whole tensors, so that the network sees 64 positions at a time. PUCT has less to compute than Gumbel
search. PyTorch runs with one thread and with all cores, and the faster counts. Compiling, and a
first batch of moves of each, are not counted.
"""

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench.rounds import answer, clocked, processor_ms
from experiments.rl.alphazero import AlphaZero, Trainer
from experiments.rl.networks import kinds

THEIRS = Path(__file__).with_name("torch_games.py")
ARMS = ("dense", "Erdos-Renyi", "SET")
SIZE, CENTER = 5, 12
SAMPLE = 5
"""Iterations of a sample, in each of which masks change."""
SETTINGS = AlphaZero(every=AlphaZero().updates)
FOREVER = 10**6


def trained(own: Trainer, state: Any) -> Any:
    """After a sample of iterations."""
    for n in range(SAMPLE):
        state, _ = own.train(state, jax.random.key(n))
    return jax.block_until_ready(state)


def iterations(rounds: int) -> dict[str, np.ndarray]:
    """Processor milliseconds of an iteration of each arm, [rounds]; arms take turns."""
    owns = {arm: Trainer(SETTINGS, kinds(0.1, 0.0)[arm], SIZE, (CENTER,), FOREVER) for arm in ARMS}
    running = {arm: (partial(trained, own), own.start(1)) for arm, own in owns.items()}
    return {arm: ms / SAMPLE for arm, ms in processor_ms(running, rounds).items()}


def beside(python: Path, count: int) -> dict[str, dict[str, float]]:
    """Seconds, moves and games of both sides, for a number of batches of moves.

    Raises:
      ChildProcessError: theirs failed.
    """
    own = Trainer(AlphaZero(), kinds(0.1, 0.0)["dense"], SIZE, (CENTER,), FOREVER)
    start = own.start(1)
    layers, games = own.layers(start), start["games"]
    games, _ = jax.block_until_ready(own.play(layers, games, jax.random.key(0)))

    def played() -> int:
        at, ended = games, 0
        for n in range(count):
            at, moves = own.play(layers, at, jax.random.key(n + 1))
            ended += int(((moves.own + moves.other).sum(axis=-1) == 0).sum())  # as many begin
        return ended

    ended, clock, processor = clocked(played)
    taken = {"clock [s]": clock, "processor [s]": processor, "games": ended}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.npz"
        np.savez(path, *(np.asarray(leaf) for layer in layers for leaf in layer))
        sizes = own.settings.games, own.plies, own.settings.simulations, count
        theirs = [
            json.loads(answer([python, THEIRS, path, *sizes, threads]))
            for threads in {1, os.cpu_count() or 1}
        ]
    moves = count * own.settings.games * own.plies
    rates = lambda one: {"games / s": one["games"] / one["clock [s]"],
                         "moves / s": moves / one["clock [s]"]}  # fmt: skip
    sides = {"ours": taken, "PyTorch": min(theirs, key=lambda one: one["clock [s]"])}
    return {name: one | rates(one) for name, one in sides.items()}
