"""Automata against a brute-force reading of their properties; probabilities against known ones."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from experiments import automaton, automaton_masks
from experiments.rl import fitted, tabular
from experiments.rl.environments import automata, exact, grids
from experiments.rl.environments.automata import TRAP, Automaton

pytestmark = pytest.mark.standard_dtypes
LETTERS = ("safe", "a", "b", "c", "unsafe")
SAFE, A, B, C, UNSAFE = range(5)
WORDS = 10_000


class Lasso:
    """Words [words, prefix + loop], of which the loop is read again and again, and what holds."""

    def __init__(self, words: np.ndarray, prefix: int):
        self.words = words
        self.after = [*range(1, words.shape[1]), prefix]

    def has(self, letter: int) -> np.ndarray:
        return self.words == letter

    def next(self, held: np.ndarray) -> np.ndarray:
        return held[:, self.after]

    def future(self, held: np.ndarray) -> np.ndarray:
        for _ in range(2 * held.shape[1]):
            held = held | self.next(held)
        return held

    def always(self, held: np.ndarray) -> np.ndarray:
        return ~self.future(~held)


def in_turn(word: Lasso) -> np.ndarray:
    """F (a & X F (b & X F c)) & G !unsafe"""
    inner = word.future(word.has(C))
    for letter in (B, A):
        inner = word.future(word.has(letter) & word.next(inner))
    return inner & word.always(~word.has(UNSAFE))


def in_any_order(word: Lasso) -> np.ndarray:
    """F a & F b & G !unsafe"""
    both = word.future(word.has(A)) & word.future(word.has(B))
    return both & word.always(~word.has(UNSAFE))


def again(word: Lasso) -> np.ndarray:
    """G F a & G F b"""
    return word.always(word.future(word.has(A))) & word.always(word.future(word.has(B)))


def at_last(word: Lasso) -> np.ndarray:
    """(F G a | F G b) & G !unsafe"""
    stays = lambda letter: word.future(word.always(word.has(letter)))
    return (stays(A) | stays(B)) & word.always(~word.has(UNSAFE))


def accepts(one: Automaton, words: np.ndarray, prefix: int) -> np.ndarray:
    """[words], whether some run meets an accepting state for ever; at most one jump is made."""
    length, loop = words.shape[1], words.shape[1] - prefix
    rounds = len(one.moves)  # after so many, the states of rounds repeat
    order = [*range(length), *list(range(prefix, length)) * (2 * rounds)]
    jumps = [(t, *jump) for t in range(length + 1)
             for jump in ((q, to) for q, many in one.jumps.items() for to in many)]  # fmt: skip
    final = np.isin(np.arange(len(one.moves)), [*one.accepting])
    found = np.zeros(len(words), bool)
    for when, left, to in [(-1, 0, 0), *jumps]:
        state, met = np.zeros(len(words), int), np.zeros(len(words), bool)
        for t, place in enumerate(order):
            if t == when:
                state = np.where(state == left, to, state)
            state = np.where(state == TRAP, TRAP, one.moves[state, words[:, place]])
            if t >= len(order) - rounds * loop:
                met |= (state != TRAP) & final[state]
        found |= met
    return found


@pytest.mark.parametrize(
    ("one", "reading"),
    [
        (automata.sequence(LETTERS, ("a", "b", "c"), ("unsafe",)), in_turn),
        (automata.collection(LETTERS, ("a", "b"), ("unsafe",)), in_any_order),
        (automata.recurrence(LETTERS, ("a", "b")), again),
        (automata.persistence(LETTERS, ("a", "b"), ("unsafe",)), at_last),
    ],
    ids=["sequence", "collection", "recurrence", "persistence"],
)
def test_an_automaton_accepts_what_its_property_says(
    one: Automaton, reading: Callable[[Lasso], np.ndarray]
) -> None:
    """On random words, most of them without what is unsafe, and on all short ones."""
    assert one.property == reading.__doc__
    rng, shares = np.random.default_rng(0), []
    shapes = [*itertools.product((0, 1, 3, 6), (1, 2, 3, 5, 8))]
    for prefix, loop in shapes:
        odds = rng.dirichlet([1, 1, 1, 1, 0.05], WORDS // len(shapes))
        words = np.array([rng.choice(5, prefix + loop, p=one) for one in odds])
        shares.append(_same(one, reading, words, prefix).mean())
    assert 0.1 < np.mean(shares) < 0.9
    for prefix, loop in ((0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)):
        words = np.array([*itertools.product(range(5), repeat=prefix + loop)])
        _same(one, reading, words, prefix)


def _same(one: Automaton, reading: Callable, words: np.ndarray, prefix: int) -> np.ndarray:
    expected, found = reading(Lasso(words, prefix))[:, 0], accepts(one, words, prefix)
    np.testing.assert_array_equal(found, expected, str(words[found != expected][:3]))
    return expected


def test_the_probabilities_of_the_published_lakes() -> None:
    for name, expected in {"lake 1": 0.999998, "lake 2": 0.999999, "lake 3": 1.0}.items():
        made = grids.product(*grids.task(name))
        value = exact.best(made)[0]
        assert value[made.start] == pytest.approx(expected, abs=5e-7)
    assert exact.for_ever(grids.product(*grids.task("lake 1"))) == pytest.approx(0.999998, abs=5e-7)


def test_for_ever_is_not_once() -> None:
    """Two cells and a slip: the goal is reached, and left again, unless it is never left."""
    ever = {}
    for sinks in ((), ((0, 1),)):
        grid = grids.Grid(
            shape=(1, 3), start=(0, 1), slip=0.1, sinks=(((0, 2),) if sinks else ()),
            labels={"unsafe": ((0, 0),), "goal1": ((0, 2),)},
        )  # fmt: skip
        made = grids.product(grid, automata.sequence(grid.letters, ("goal1",), ("unsafe",)))
        once = exact.best(made)[0][made.start]
        # right with .9 + .1 / 5, left with .1 / 5, else again
        assert once == pytest.approx(0.92 / 0.94)
        ever[sinks] = exact.for_ever(made)
    assert ever == {(): 0, ((0, 1),): pytest.approx(0.92 / 0.94)}


def test_success_is_the_value_of_the_best_policy() -> None:
    """Value iteration and the forward pass of a policy's chain are two ways to one number."""
    made = grids.product(*grids.task("lake 8x8"))
    value = exact.best(made)[0]
    closer = exact.best(made, 0.9999)[0]
    policy = exact.backup(made, closer, 0.9999).argmax(axis=1)
    chance, visits = exact.success(made, policy, 5000)
    assert chance == pytest.approx(value[made.start], abs=1e-6)
    assert visits[made.start] >= 1


def test_states_that_pad_a_product_are_never_met() -> None:
    made = grids.product(*grids.task("minecraft 1"))
    wide = tabular.padded(made)
    assert len(wide.nexts) == len(wide.seen) == wide.seen.max() + 1 == tabular.SMALLEST
    np.testing.assert_array_equal(exact.best(wide)[0][: len(made.nexts)], exact.best(made)[0])
    table = np.random.default_rng(0).random((len(wide.nexts), made.nexts.shape[1]))
    policy = tabular.policy(made, table)
    np.testing.assert_array_equal(tabular.policy(wide, table)[: len(made.nexts)], policy)


def test_no_ratio_to_a_product_that_is_never_learned() -> None:
    agent = lambda end: {"steps": [500, 1000], "success": [[0.0], [end]]}
    row = lambda product, other: {
        "task": "lake 1", "states": 240, "exact": 1.0, "for ever": 1.0,
        "agents": {"product": agent(product), "cell alone": agent(other)},
    }  # fmt: skip
    settings = automaton.Settings(tasks=("lake 1",), seeds=1)
    last = lambda rows: [one.split() for one in automaton.told(rows, settings).splitlines()][-2:]
    assert last([row(0.0, 1.0)]) == [["product", "0", "0"], ["cell", "alone", "0", "0"]]
    both = [["product", "1", "1", "1.0"], ["cell", "alone", "1", "1", "1.0"]]
    assert last([row(0.0, 1.0), row(1.0, 1.0)]) == both


def test_memories_of_labels() -> None:
    moves = automata.remembered(("safe", "a", "b"), 2)
    state = 0
    for letter in (1, 0, 1, 1, 2, 0):  # a safe a a b safe
        state = int(moves[state, letter])
    marks = [*itertools.product((None, "a", "b"), repeat=2)]
    assert marks[state] == ("a", "b")


@pytest.mark.slow
def test_the_experiment(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dataclasses.replace(automaton.QUICK, tasks=("lake 4x4",), seeds=2, out=str(tmp_path))
    automaton.main(settings)
    printed = capsys.readouterr().out
    (line,) = [one for one in printed.splitlines() if one.startswith("lake 4x4") and "0.93" in one]
    assert float(line.split()[-1]) > 0.9  # the worse seed's share of the exact probability
    assert (tmp_path / "visits.png").stat().st_size > 5_000
    page = (tmp_path / "page.html").read_text()
    assert 'alt="visits"' in page and "lake 4x4</td>" in page
    automaton.main(settings)  # complete: prints again, learns nothing
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_each_state_reads_the_shared_network_through_its_own_mask() -> None:
    net = fitted.begin(fitted.Arm(0.2, "masks"), (2, 3), 3, 4, 8, seed=1)
    values = net.table(net.params)
    assert values.shape == (3 * 6, 4)
    for state in range(3):
        own = jax.tree.map(lambda leaf, state=state: leaf[state], net.rest)
        alone = nnx.merge(net.graph, net.params, own)(net.x)
        np.testing.assert_allclose(values[6 * state : 6 * state + 6], alone, rtol=1e-5, atol=1e-6)
    one, every = fitted.weights(net)
    assert one == pytest.approx(0.2 * (5 * 8 + 8 * 8 + 8 * 4), abs=3)
    assert one < every <= 3 * one


@pytest.mark.slow
def test_masks_for_each_state(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = dataclasses.replace(
        automaton_masks.QUICK, task="slippery small, easy", steps=2000, width=32, out=str(tmp_path)
    )
    automaton_masks.main(settings)
    printed = capsys.readouterr().out
    table = printed.partition("probability of acceptance by sparsity:")[2].splitlines()
    rows = [line.split() for line in table if " % " in line]  # the mean stands before the seeds
    assert [float(row[-2]) > 0.8 for row in rows] == [True, True]
    assert "told the state, dense</td>" in (tmp_path / "page.html").read_text()
    automaton_masks.main(settings)  # complete: prints again, trains nothing
    assert capsys.readouterr().out == printed
