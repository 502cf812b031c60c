"""PyTorch's side of `games`, in its own process: it needs only torch and NumPy.

    PYTHON torch_games.py LAYERS GAMES PLIES SIMULATIONS BATCHES THREADS

LAYERS is a .npz with kernels and biases. Plays BATCHES of PLIES moves in all GAMES after one that
is not counted, and prints a JSON line of the time and of the games that ended.
"""

import itertools
import json
import sys
import time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SIZE, ROW, CENTER = 5, 4, 12
CELLS = SIZE * SIZE
PUCT, ALPHA, NOISE = 1.25, 0.3, 0.25


def _lines() -> Tensor:
    """[cells, lines], 1 where a cell is in a line."""
    found = []
    for row, column, (down, right) in itertools.product(
        range(SIZE), range(SIZE), ((0, 1), (1, 0), (1, 1), (1, -1))
    ):
        cells = [(row + n * down, column + n * right) for n in range(ROW)]
        if all(0 <= r < SIZE and 0 <= c < SIZE for r, c in cells):
            line = torch.zeros(CELLS)
            line[[r * SIZE + c for r, c in cells]] = 1
            found.append(line)
    return torch.stack(found, dim=1)


LINES = _lines()


class State(NamedTuple):
    """Positions for who moves next: stones [..., cells] and whether the game is over [...]."""

    own: Tensor
    other: Tensor
    ended: Tensor


def legal(state: State, brick: Tensor) -> Tensor:
    return (state.own + state.other + brick == 0) & ~state.ended[:, None]


def moved(state: State, action: Tensor, brick: Tensor) -> tuple[State, Tensor]:
    own = state.own.clone()
    own.scatter_add_(1, action[:, None], (~state.ended).float()[:, None])
    won = ~state.ended & (own @ LINES == ROW).any(dim=1)
    full = (own + state.other + brick).sum(dim=1) == CELLS
    return State(state.other, own, state.ended | won | full), won


class Network:
    """Three layers; positions to probabilities of moves and the value for who moves next."""

    def __init__(self, path: str):
        arrays = [torch.from_numpy(one) for one in np.load(path).values()]
        self.layers = list(zip(arrays[::2], arrays[1::2], strict=True))

    def __call__(self, state: State, brick: Tensor) -> tuple[Tensor, Tensor]:
        *hidden, (kernel, bias) = self.layers
        x = torch.cat([state.own, state.other, brick.expand_as(state.own)], dim=1)
        for weight, shift in hidden:
            x = torch.relu(torch.addmm(shift, x, weight))
        out = torch.addmm(bias, x, kernel)
        logits = torch.where(legal(state, brick), out[:, :CELLS], -1e9)
        return torch.softmax(logits, dim=1), torch.tanh(out[:, CELLS])


def searched(network: Network, root: State, brick: Tensor, simulations: int) -> Tensor:
    """Visits of the moves, [games, cells]; all games are searched at once."""
    games, nodes = len(root.ended), simulations + 1
    lane = torch.arange(games)
    children = torch.full((games, nodes, CELLS), -1)
    prior, visits, total = torch.zeros(3, games, nodes, CELLS)
    own, other = torch.zeros(2, games, nodes, CELLS)
    ended = torch.zeros(games, nodes, dtype=torch.bool)
    own[:, 0], other[:, 0], ended[:, 0] = root
    chance, _ = network(root, brick)
    free = legal(root, brick)
    noise = torch.distributions.Dirichlet(torch.full((games, CELLS), ALPHA)).sample() * free
    noise = noise / noise.sum(dim=1, keepdim=True).clamp(min=1e-9)
    prior[:, 0] = (1 - NOISE) * chance + NOISE * noise
    for number in range(1, nodes):
        node, going, path = torch.zeros(games, dtype=torch.long), ~root.ended, []
        while True:
            count, probability = visits[lane, node], prior[lane, node]
            value = total[lane, node] / count.clamp(min=1)
            bonus = PUCT * probability * (count.sum(dim=1, keepdim=True) + 1).sqrt() / (1 + count)
            action = (value + bonus).masked_fill(probability == 0, -torch.inf).argmax(dim=1)
            path.append((node, action, going))
            child = children[lane, node, action]
            further = going & (child >= 0) & ~ended[lane, child.clamp(min=0)]
            if not further.any():
                break
            going, node = further, torch.where(further, child, node)
        last = torch.stack([one[2] for one in path]).sum(dim=0) - 1  # depth of each game's leaf
        before = State(own[lane, node], other[lane, node], ended[lane, node])
        stopped = torch.stack([one[1] for one in path])[last.clamp(min=0), lane]
        known = children[lane, node, stopped]
        new, won = moved(before, stopped, brick)
        chance, value = network(new, brick)
        leaf = torch.where(known < 0, number, known)
        children[lane, node, stopped] = leaf
        prior[lane, leaf], own[lane, leaf], other[lane, leaf] = chance, new.own, new.other
        ended[lane, leaf] = new.ended
        worth = torch.where(won, 1.0, torch.where(new.ended, 0.0, -value))
        for depth, (at, action, counted) in reversed([*enumerate(path)]):
            sign = torch.where((last - depth) % 2 == 0, 1.0, -1.0)
            weight = counted.float()
            visits[lane, at, action] += weight
            total[lane, at, action] += weight * sign * worth
    return visits[:, 0]


def played(
    network: Network, state: State, brick: Tensor, plies: int, simulations: int
) -> tuple[State, int]:
    """So many moves of all games, and how many ended."""
    games, over = len(state.ended), 0
    opened = torch.arange(games) % 2 == 0
    for _ in range(plies):
        visits = searched(network, state, brick, simulations)
        action = torch.multinomial(visits, 1)[:, 0]
        early = opened & ((state.own + state.other).sum(dim=1) < 2)
        luck = torch.rand(games, CELLS).masked_fill(~legal(state, brick), -1).argmax(dim=1)
        state, _ = moved(state, torch.where(early, luck, action), brick)
        over += int(state.ended.sum())
        kept = (~state.ended).float()[:, None]
        state = State(state.own * kept, state.other * kept, torch.zeros_like(state.ended))
    return state, over


@torch.inference_mode()
def main(path: str, games: int, plies: int, simulations: int, batches: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network, brick = Network(path), torch.zeros(1, CELLS)
    brick[0, CENTER] = 1
    empty = torch.zeros(games, CELLS)
    state = State(empty, empty.clone(), torch.zeros(games, dtype=torch.bool))
    state, ended = played(network, state, brick, plies, simulations)[0], 0
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(batches):
        state, over = played(network, state, brick, plies, simulations)
        ended += over
    taken = time.perf_counter() - clock, time.process_time() - processor
    print(json.dumps({"clock [s]": taken[0], "processor [s]": taken[1], "games": ended}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
