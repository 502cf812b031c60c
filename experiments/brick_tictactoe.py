"""What AlphaZero learns of a game: brick tic-tac-toe with the brick in place, or elsewhere.

Claims (the paper's): AlphaZero trained with the brick on one cell loses more than minimax and MCTS
    when it is elsewhere; look-ahead does not fix this, more cells in training do. Ours: is a
    network with 10 % of its hidden weights (SET) better there than a dense one of equal strength at
    home?

Paper: Tan Chong Min and Motani, Brick tic-tac-toe, arXiv 2207.05991 (2022), and its code. Its
    tables could not be read, so there is no published number for comparison. Game, heuristic and
    minimax of depth 2 are the paper's. Ours are 5 x 5 cells (7 x 7 there), an MLP (convolutions),
    Gumbel noise (PUCT), 16 simulations (100), and MCTS of 1,000 iterations (2,500).

Tests: brick at home (the center), shifted by (1, 1), and anywhere; the first move of each player is
    random, or all games would be one. Positions are rotated and flipped in training, but never to a
    brick on another cell: by all eight turns, 3 cells and 9 are the same (and by its flips the
    paper's set of three, C3 D3 D4, holds E5, to which it shifts).

Number (3 seeds): trained on one cell, the score falls from 0.23 ± 0.04 at home to -0.20 ± 0.11
    shifted, minimax has 0.27 and 0.47; anywhere it is -0.20, 0.11, 0.28 and 0.24 after training on
    1, 3, 9 and 25 cells. Sparse against dense at equal strength: not settled. 28 minutes of
    processor time on two cores.

Command: python -m experiments.brick_tictactoe            (three seeds)
         python -m experiments.brick_tictactoe --quick    (one seed, short: shows only that it runs)
         python -m experiments.brick_tictactoe --board 7 --az.games 1024 --iterations 1000
             (the paper's board; for a GPU; not run)

Needs the extra `rl`.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.rl import headline, players
from experiments.rl.alphazero import AlphaZero, Trainer
from experiments.rl.networks import Kind, kinds, weights
from experiments.rl.standings import (
    OPPONENT,
    SEATS,
    USUAL,
    counts,
    equal,
    not_lost,
    score,
    scores,
)

SPARSE = "1 cell, SET"
LOOK = (0, USUAL, 64)
"""Simulations per move; the round robin uses the middle number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """A run folder for each network, and one for the games of each seed."""

    board: int = 5
    """Rows of the board."""
    seeds: int = dataclasses.field(default=3, metadata=common.FREE)
    """Of networks and of games."""
    iterations: int = 200
    """Of self-play and learning, of each network."""
    marks: int = 8
    """How often a network plays minimax during learning."""
    games: int = 50
    """Of each pair, test and seat."""
    tries: int = 1000
    """Iterations of MCTS."""
    density: float = 0.1
    """Of both hidden layers of the sparse network."""
    az: AlphaZero = dataclasses.field(default_factory=AlphaZero)
    """Of the algorithm."""
    quick: bool = False
    """One seed, few iterations."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "iterations", "marks", "games", "tries")
        if not 5 <= self.board <= 11:
            raise ValueError(f"--board got {self.board}; give 5 to 11 rows")
        if self.iterations % self.marks:
            raise ValueError(
                f"--iterations is a multiple of --marks, got {self.iterations} and {self.marks}"
            )
        if not 0 < self.density < 1:
            raise ValueError(f"--density is a fraction in (0, 1), got {self.density}")


QUICK = Settings(seeds=1, iterations=20, marks=2, games=25, tries=100, quick=True)


def cells(board: int) -> dict[int, tuple[int, ...]]:
    """Cells of the brick in training, by their number."""
    c = board // 2
    three = [(c, c), (c, c - 1), (c - 1, c - 1)]
    nine = [(row, column) for row in range(c - 1, c + 2) for column in range(c - 1, c + 2)]
    at = lambda places: tuple(row * board + column for row, column in places)
    return {1: at(three[:1]), 3: at(three), 9: at(nine), board**2: tuple(range(board**2))}


def tests(settings: Settings) -> dict[str, np.ndarray]:
    """Cells of the brick in the games of each test, [games]."""
    size, games = settings.board, settings.games
    center = cells(size)[1][0]
    return {
        "home": np.full(games, center),
        "shifted": np.full(games, center + size + 1),
        "anywhere": np.linspace(0, size**2, games, endpoint=False).astype(int),
    }


def arms(settings: Settings) -> dict[str, tuple[tuple[int, ...], Kind]]:
    """Cells of training and the kind of network, by name."""
    made = kinds(settings.density, 0.0)
    found = {common.counted(n, "cell"): (one, Kind()) for n, one in cells(settings.board).items()}
    return found | {SPARSE: (cells(settings.board)[1], made["SET"])}


def met(first: players.Player, second: players.Player, settings: Settings, key: Any) -> dict:
    """Games of all tests: wins, draws and losses of `first` in each."""
    given = tests(settings)
    bricks = jnp.asarray(np.concatenate([*given.values()]))
    found = np.asarray(players.play(first, second, bricks, settings.board, key))
    parts = np.split(found, len(given))
    count = lambda one: [int((one == value).sum()) for value in (1, 0, -1)]
    return {name: count(part) for name, part in zip(given, parts, strict=True)}


def against(player: players.Player, settings: Settings, key: Any) -> dict[str, dict]:
    """Wins, draws and losses of a player against minimax in each test, by seat."""
    second = met(players.minimax, player, settings, jax.random.fold_in(key, 1))
    turned = {name: one[::-1] for name, one in second.items()}
    return {"first": met(player, players.minimax, settings, key), "second": turned}


def trained(arm: str, seed: int, settings: Settings) -> tuple[dict[str, Any], Any]:
    """The results of one network, and its layers; from its folder as far as possible."""
    run = common.open_run(Path(settings.out) / arm / f"seed {seed}", settings, arm=arm, seed=seed)
    bricks, kind = arms(settings)[arm]
    trainer = Trainer(settings.az, kind, settings.board, bricks, settings.iterations)
    done, state = run.load(trainer.start(seed))
    each = settings.iterations // settings.marks
    progress = common.Epochs(done, settings.marks, f"{arm}, seed {seed}", "mark")
    for mark in progress:
        losses = []
        for n in range((mark - 1) * each, mark * each):
            key = jax.random.fold_in(jax.random.key(seed), n)
            state, loss = trainer.train(state, key)
            losses.append(loss)
        loss = float(jnp.concatenate(losses).mean())
        common.check_finite(loss, mark, {}, run)
        player = partial(players.alphazero, trainer.layers(state), simulations=USUAL)
        found = against(player, settings, jax.random.fold_in(jax.random.key(seed), 10**6 + mark))
        run.log(mark, loss=loss, minimax=found)
        progress.show(loss=loss, home=not_lost(found, "home"), shifted=not_lost(found, "shifted"))
        run.save(mark, state)
    if not run.complete:
        pairs = weights(trainer.agent(state).network).values()
        kept, all_ = (sum(pair[n] for pair in pairs) for n in range(2))
        run.finish(rows=[row["minimax"] for row in run.rows()], links=kept, weights=all_)
    return run.final(), trainer.layers(state)


def tournament(nets: dict[str, Any], seed: int, settings: Settings) -> list[dict[str, Any]]:
    """All against all in both seats, and networks with more and less look-ahead."""
    run = common.open_run(Path(settings.out) / "games" / f"seed {seed}", settings, seed=seed)
    many: dict[str, players.Player] = {
        "random": players.random,
        OPPONENT: players.minimax,
        "MCTS": partial(players.mcts, iterations=settings.tries),
    }
    many |= {name: partial(players.alphazero, net, simulations=USUAL) for name, net in nets.items()}
    pairs = [(a, b) for a in many for b in many if a != b]
    for simulations in (LOOK[0], LOOK[2]):
        for name, net in nets.items():
            other = f"{name}, {simulations} simulations"
            many[other] = partial(players.alphazero, net, simulations=simulations)
            pairs += [(other, OPPONENT), (OPPONENT, other)]
    progress = common.Epochs(len(run.rows()), len(pairs), f"games, seed {seed}", "pair")
    for number in progress:
        first, second = pairs[number - 1]
        key = jax.random.fold_in(jax.random.key(seed), 2 * 10**6 + number)
        found = met(many[first], many[second], settings, key)
        run.log(number, first=first, second=second, found=found)
        progress.show(**{test: score(one) for test, one in found.items()})
    if not run.complete:
        run.finish(pairs=len(pairs))
    return run.rows()


def verdicts(found: dict[str, list[dict]], games: list[list[dict]]) -> list[str]:
    """The expectations and outcomes."""
    from scipy.stats import spearmanr

    learners = [name for name in found if name != SPARSE]
    one, *_, every = learners
    first = lambda name, test: [not_lost(run["rows"][-1], test, ("first",)) for run in found[name]]
    lines = []
    for name, test, low, high in (
        (one, "home", 0.8, 1.0), (one, "shifted", 0.0, 0.2), (every, "anywhere", 0.8, 1.0),
    ):  # fmt: skip
        own = first(name, test)
        bound = f"at least {low:.0%}" if low else f"at most {high:.0%}"
        claim = f"trained on {name}, {test}, first player against minimax: {bound} not lost"
        lines.append(
            headline.verdict(
                claim, [low <= x <= high for x in own], ", ".join(f"{x:.0%}" for x in own)
            )
        )
    reached = [[scores(rows, name, "anywhere") for name in learners] for rows in games]
    ranks = [float(spearmanr(range(len(x)), x)[0]) if np.ptp(x) else 0.0 for x in reached]
    claim = "the score anywhere rises with the cells of training (Spearman above 0)"
    lines.append(
        headline.verdict(claim, [x > 0 for x in ranks], ", ".join(f"{x:+.2f}" for x in ranks))
    )
    kept = lambda rows, n, test: 1 - np.mean(counts(rows, (one, n), test), 0)[2] / of
    of = sum(games[0][0]["found"]["home"])
    ahead = [(kept(rows, LOOK[0], "home"), kept(rows, LOOK[2], "shifted")) for rows in games]
    claim = f"{one}: not mended by look-ahead, {LOOK[2]} simulations shifted below 0 at home"
    shown = ", ".join(f"{b:.0%} and {a:.0%} not lost" for a, b in ahead)
    lines.append(headline.verdict(claim, [b < a for a, b in ahead], shown))
    drop = lambda rows, name: scores(rows, name, "home") - scores(rows, name, "shifted")
    for other in (OPPONENT, "MCTS"):
        both = [(drop(rows, one), drop(rows, other)) for rows in games]
        claim = f"from home to shifted, {one} loses more score than {other}"
        shown = ", ".join(f"{a:.2f} and {b:.2f}" for a, b in both)
        lines.append(headline.verdict(claim, [a > b for a, b in both], shown))
    pairs = [equal(*both) for both in zip(found[one], found[SPARSE], strict=True)]
    claim = f"as strong at home, {SPARSE} loses less than dense with the brick shifted"
    shown = ", ".join(
        f"{s:.0%} and {d:.0%} not lost at {level:.0%} at home" for level, d, s in pairs
    )
    return [*lines, headline.verdict(claim, [sparse > dense for _, dense, sparse in pairs], shown)]


def show(found: dict[str, list[dict]], games: list[list[dict]], settings: Settings) -> None:
    """Tables, verdicts and the picture."""
    names = [*dict.fromkeys(row["first"] for row in games[0] if "simul" not in row["first"])]
    given, seeds = [*tests(settings)], common.counted(settings.seeds, "seed")
    cell = lambda name, test: common.mean_std([scores(rows, name, test) for rows in games])
    print(f"\nRound robin, mean outcome in [-1, 1] against all others, {seeds}:\n")
    print(common.table(["player", *given], [[n, *(cell(n, t) for t in given)] for n in names]))
    body = []
    for name in found:
        for simulations in LOOK:
            row = [name, simulations]
            for test in given:
                both = np.sum([counts(rows, (name, simulations), test) for rows in games], axis=0)
                row += ["/".join(map(str, one)) for one in both]
            body.append(row)
    print(f"\nAgainst minimax, as first and second player, win/draw/loss over {seeds}:\n")
    head = [f"{test}, {seat}" for test in given for seat in SEATS]
    print(common.table(["trained on", "simulations", *head], body))
    print("\nExpected, and what came:\n")
    print("\n".join(verdicts(found, games)))
    one = common.counted(1, "cell")
    pairs = [equal(*both) for both in zip(found[one], found[SPARSE], strict=True)]
    kept = lambda name: [run["links"] / run["weights"] for run in found[name]]
    table = {name: headline.Arm(kept(name), [100 * pair[n] for pair in pairs])
             for n, name in ((1, one), (2, SPARSE))}  # fmt: skip
    metric = "not lost with the brick shifted, at equal strength at home [%],"
    print(f"\n{headline.by_sparsity(metric, table, digits=1)}")
    print(f"\npicture: {draw(found, settings)}")


def draw(found: dict[str, list[dict]], settings: Settings) -> Path:
    """Games not lost against minimax during learning, in each test."""
    each = settings.iterations // settings.marks
    steps = [each * (n + 1) for n in range(settings.marks)]
    curve = lambda run, test: [100 * not_lost(row, test) for row in run["rows"]]
    panels = {
        test: {name: (steps, np.array([curve(run, test) for run in runs]).T)
               for name, runs in found.items()}
        for test in tests(settings)
    }  # fmt: skip
    path = Path(settings.out) / "learning.png"
    common.draw(panels, path, "iteration", "not lost against minimax [%]")
    return path


def main(settings: Settings) -> None:
    """Train what is not trained yet, play the games, print the tables and draw the picture."""
    name = f"{settings.board} x {settings.board}{', quick' * settings.quick}"
    settings = dataclasses.replace(settings, out=settings.out or f"runs/brick_tictactoe/{name}")
    found: dict[str, list[dict]] = {arm: [] for arm in arms(settings)}
    games = []
    for seed in range(1, settings.seeds + 1):
        nets = {}
        for arm in found:
            result, nets[arm] = trained(arm, seed, settings)
            found[arm].append(result)
        games.append(tournament(nets, seed, settings))
    show(found, games, settings)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
