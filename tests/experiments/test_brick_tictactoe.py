"""Brick tic-tac-toe: rules, heuristic and searches against plain Python, and the experiment."""

import itertools
import random
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from experiments import brick_tictactoe as experiment
from experiments.rl import alphazero, players
from experiments.rl.environments import brick
from experiments.rl.networks import kinds

pytestmark = pytest.mark.standard_dtypes
SIZE = 5
CELLS = SIZE * SIZE
Board = list[str]
"""Cells: "." empty, "O" of who began, "X" of the other, "#" the brick."""


def stepped() -> list[list[int]]:
    """The four cells of every line on the board, by stepping from each cell."""
    found = []
    for row, column in itertools.product(range(SIZE), repeat=2):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            cells = [(row + n * down, column + n * right) for n in range(4)]
            if all(0 <= r < SIZE and 0 <= c < SIZE for r, c in cells):
                found.append([r * SIZE + c for r, c in cells])
    return found


LINES = stepped()


def windows(board: Board) -> list[str]:
    return ["".join(board[cell] for cell in line) for line in LINES]


def worth(window: str) -> Fraction:
    """The published value of a window for who began."""
    if "#" in window or ("O" in window) == ("X" in window):
        return Fraction(0)
    ends = 2 if window[0] == window[3] == "." else 1
    value = Fraction(ends, 100 ** window.count("."))
    return value * Fraction(3, 2) if "O" in window else -value


def won(board: Board, stone: str) -> bool:
    return any(all(board[cell] == stone for cell in line) for line in LINES)


def drawn_game(rng: random.Random) -> tuple[int, list[int], str]:
    """A brick, the cells of a random game and who won it, "O", "X" or "" for a draw."""
    place, moves = rng.randrange(CELLS), []
    board = ["."] * CELLS
    board[place] = "#"
    free = [cell for cell in range(CELLS) if cell != place]
    rng.shuffle(free)
    for ply, cell in enumerate(free):
        board[cell] = "OX"[ply % 2]
        moves.append(cell)
        if won(board, board[cell]):
            return place, moves, board[cell]
    return place, moves, ""


def state_of(boards: list[Board]) -> brick.State:
    """Positions as the rules have them; whoever has fewer stones moves next, "O" if equal."""
    text = np.array(boards)
    own = np.array([[("O", "X")[b.count("O") > b.count("X")]] for b in boards])
    where = lambda mask: jnp.asarray(mask, jnp.float32)
    other = np.where(own == "O", "X", "O")
    ended = jnp.zeros(len(boards), bool)
    return brick.State(where(text == own), where(text == other), where(text == "#"), ended)


def some_boards(count: int, stones: int, seed: int) -> list[Board]:
    """Positions without a winner after so many stones."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        place, moves, _ = drawn_game(rng)
        if len(moves) > stones:
            board = ["."] * CELLS
            board[place] = "#"
            for ply, cell in enumerate(moves[:stones]):
                board[cell] = "OX"[ply % 2]
            found.append(board)
    return found


def test_rules_on_a_thousand_random_games() -> None:
    """Each game ends at the same move with the same winner; stones after the end change nothing."""
    rng = random.Random(0)
    games = [drawn_game(rng) for _ in range(1000)]
    assert {winner for _, _, winner in games} == {"O", "X", ""}
    plies = CELLS - 1
    table = np.array([moves + [0] * (plies - len(moves)) for _, moves, _ in games]).T
    state = brick.begin(SIZE, jnp.array([place for place, _, _ in games]))
    _, (wins, ended) = jax.jit(lambda s: jax.lax.scan(_step, s, jnp.asarray(table)))(state)
    wins, ended = np.asarray(wins), np.asarray(ended)
    for n, (_, moves, winner) in enumerate(games):
        last = len(moves) - 1
        assert ended[:, n].tolist() == [ply >= last for ply in range(plies)]
        expected = [ply == last and winner != "" for ply in range(plies)]
        assert wins[:, n].tolist() == expected
        assert not winner or winner == "OX"[last % 2]


def _step(state: brick.State, action: jax.Array) -> tuple[brick.State, tuple]:
    game = brick.Brick(SIZE, (0,))
    state, reward, over = game.step(state, action, jax.random.key(0))
    return state, (reward == 1, over)


def test_the_heuristic_is_the_published_one_exactly() -> None:
    value = jax.jit(lambda state: brick.heuristic(brick.counts(state)))
    unit = Fraction(1, brick.WON)
    table = ["".join(cells) for cells in itertools.product(".OX", repeat=4)]
    assert (worth("OOOO"), worth(".X..")) == (Fraction(3, 2), Fraction(-2, 10**6))
    row = [alone(window) for window in table]
    boards = some_boards(100, 7, 1) + some_boards(100, 12, 2)
    expected = [worth(window) for window in table] + [sum(map(worth, windows(b))) for b in boards]
    found = value(state_of(row + boards)).tolist()
    for board, one, wanted in zip(row + boards, found, expected, strict=True):
        mover = -1 if board.count("O") > board.count("X") else 1
        assert one * unit == mover * wanted, "".join(board)


def alone(window: str) -> Board:
    """A board where each line but this one holds a brick, with as many stones of both players."""
    board = [*window, *"#" * (CELLS - 4)]
    few, many = sorted("OX", key=window.count)
    for cell in (10, 12, 14, 21)[: window.count(many) - window.count(few)]:
        board[cell] = few
    return board


def plain_values(board: Board) -> dict[int, Fraction]:
    """Values of all moves at depth 2 for who moves, without any cut."""
    mine, theirs = ("X", "O") if board.count("O") > board.count("X") else ("O", "X")
    sign, found = (1 if mine == "O" else -1), {}
    for move in (cell for cell in range(CELLS) if board[cell] == "."):
        board[move] = mine
        replies = [cell for cell in range(CELLS) if board[cell] == "."]
        values = []
        for reply in replies:
            board[reply] = theirs
            full = "." not in board
            value = Fraction(0) if full else sign * sum(map(worth, windows(board)))
            values.append(Fraction(-1) if won(board, theirs) else value)
            board[reply] = "."
        found[move] = Fraction(1) if won(board, mine) else min(values, default=Fraction(0))
        board[move] = "."
    return found


def test_minimax_has_exact_values_of_all_moves() -> None:
    boards = [
        b for n, stones in enumerate((1, 8, 15, 21, 22, 23)) for b in some_boards(2, stones, n)
    ]
    found = np.asarray(jax.jit(jax.vmap(players.values))(state_of(boards)))
    for board, row in zip(boards, found, strict=True):
        expected = plain_values(board)
        assert {cell: Fraction(int(row[cell]), brick.WON) for cell in expected} == expected
        assert (np.delete(row, [*expected]) < -2 * brick.WON).all()


TACTICS = {"win": ("OOO.." "XX..." "X...." "....." "....#", 3),
           "block": ("XXX.." "O...." "..O.." "O...." "....#", 3)}  # fmt: skip


def test_searches_find_a_win_and_a_block() -> None:
    """And MCTS spends each of its visits on an empty cell."""
    state = state_of([[*text] for text, _ in TACTICS.values()])
    wanted = [cell for _, cell in TACTICS.values()]
    assert players.minimax(state, jax.random.key(0)).tolist() == wanted
    assert players.mcts(state, jax.random.key(0), iterations=400).tolist() == wanted
    one = jax.tree.map(lambda leaf: leaf[0], state)
    visits = np.asarray(players._searched(one, jax.random.key(1), iterations=400))
    free = np.asarray(brick.legal(one))
    assert visits[free].sum() == 400
    assert (visits[~free] < 0).all()


def test_turns_keep_to_the_bricks_in_use() -> None:
    assert brick.lines(7).shape == (88, 4)
    taken = alphazero.turns(SIZE, (12, 11, 6))
    to = np.argsort(brick.symmetries(SIZE), axis=1)
    for cell in (12, 11, 6):
        reached = {int(to[one, cell]) for one in taken[:, cell]}
        assert reached <= {12, 11, 6}
        assert cell in reached
    assert sorted(set(taken[:, 12].tolist())) == [*range(8)]


SMALL = alphazero.AlphaZero(width=8, games=6, simulations=2, memory=2, updates=2, batch=4)


def test_the_model_of_the_search() -> None:
    """A win is paid to who moved; then the sides turn, and nothing counts after the end."""
    pytest.importorskip("mctx")
    zero = [(jnp.zeros(shape), jnp.zeros(shape[1])) for shape in ((75, 8), (8, 8), (8, 26))]
    boards = [[*TACTICS["win"][0]], [*TACTICS["block"][0]]]
    output, state = players._model(zero, jax.random.key(0), jnp.array([3, 4]), state_of(boards))
    assert output.reward.tolist() == [1, 0]
    assert output.discount.tolist() == [0, -1]
    assert state.ended.tolist() == [True, False]
    again, _ = players._model(zero, jax.random.key(0), jnp.array([4, 3]), state)
    assert again.reward.tolist() == [0, 1]
    assert again.discount.tolist() == [0, 0]


@pytest.fixture(scope="module")
def trainer() -> alphazero.Trainer:
    pytest.importorskip("mctx")
    return alphazero.Trainer(SMALL, kinds(0.1, 0.0)["SET"], SIZE, (12, 11, 6), iterations=2)


@pytest.mark.slow
def test_outcomes_of_self_play_are_those_of_its_games(trainer: alphazero.Trainer) -> None:
    state, _ = trainer.train(trainer.start(1), jax.random.key(0))
    played = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state["memory"])
    assert set(played.brick.ravel()) <= {12, 11, 6}
    np.testing.assert_allclose(played.policy.sum(axis=-1), 1, rtol=1e-5)
    stones = (played.own + played.other).sum(axis=-1)
    ends = 0
    for lane in range(SMALL.games):
        for ply in range(trainer.plies - 1):
            known, outcome = played.known[lane, ply], played.outcome[lane, ply]
            if stones[lane, ply + 1] > 0:  # the game goes on, with the players' sides turned
                assert stones[lane, ply + 1] == stones[lane, ply] + 1
                assert known == played.known[lane, ply + 1]
                assert not known or outcome == -played.outcome[lane, ply + 1]
                continue
            ends += 1
            text = np.full(CELLS, ".")
            text[played.own[lane, ply] > 0], text[played.other[lane, ply] > 0] = "O", "X"
            text[played.brick[lane, ply]] = "#"
            wins = [cell for cell in np.flatnonzero(text == ".")
                    if won([*text[:cell], "O", *text[cell + 1 :]], "O")]  # fmt: skip
            assert known and outcome in (0, 1)
            assert wins if outcome else stones[lane, ply] == CELLS - 2
    assert ends > SMALL.games


@pytest.mark.slow
def test_a_sparse_network_learns_and_meets_the_others(
    trainer: alphazero.Trainer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One network is trained and plays; the tables are of it alone."""
    monkeypatch.setattr(experiment, "LOOK", (0, 16, 16))
    monkeypatch.setattr(experiment, "Trainer", lambda *given: trainer)  # which is compiled
    settings = experiment.Settings(
        iterations=2, marks=2, games=5, tries=4, seeds=1, az=SMALL, out=str(tmp_path)
    )
    whole, layers = experiment.trained(experiment.SPARSE, 1, settings)
    assert whole["weights"] == 75 * 8 + 8 * 8 + 8 * 26
    assert whole["links"] == pytest.approx(0.1 * (75 * 8 + 8 * 8) + 8 * 26, abs=2)
    games = experiment.tournament({"1 cell": layers}, 1, settings)
    assert len(games) == 4 * 3 + 4
    assert all(sum(counts) == 5 for row in games for counts in row["found"].values())
    found = {arm: [whole] for arm in experiment.arms(settings)}
    for name in found:  # each plays as this one does
        renamed = [
            row | {seat: row[seat].replace("1 cell", name) for seat in ("first", "second")}
            for row in games
        ]
        games += renamed if name != "1 cell" else []
    experiment.show(found, [games], settings)
    printed = capsys.readouterr().out
    assert printed.count("% not lost; ") == 3
    # beside itself it is not better
    assert "too few seeds to say (0 of 1 seed): as strong at home" in printed
    assert (tmp_path / "learning.png").stat().st_size > 10_000
    rest = {arm: experiment.trained(arm, 1, settings)[0] for arm in (experiment.SPARSE,)}
    assert rest == {experiment.SPARSE: whole}  # complete: nothing is trained


@pytest.mark.slow
def test_the_paper_s_board_has_its_shapes() -> None:
    pytest.importorskip("mctx")
    bricks = experiment.cells(7)
    assert {n: len(one) for n, one in bricks.items()} == {1: 1, 3: 3, 9: 9, 49: 49}
    assert bricks[1] == (24,)
    assert experiment.tests(experiment.Settings(board=7))["shifted"][0] == 32
    own = alphazero.Trainer(SMALL, kinds(0.1, 0.0)["dense"], 7, bricks[3], iterations=2)
    start = own.start(1)
    state, losses = jax.eval_shape(own._train, start, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.shape, state) == jax.tree.map(lambda x: x.shape, start)
    assert losses.shape == (SMALL.updates,)
