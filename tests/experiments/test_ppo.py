"""PPO: each part against a loop in NumPy or a closed form, and a bandit whose optimum is known."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

import jsparse
from experiments.rl import headline, networks, objective, policies, ppo

pytestmark = pytest.mark.standard_dtypes


def test_advantages_are_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    steps, copies, gamma, lam = 7, 3, 0.9, 0.8
    gain, value = random.normal(size=(2, steps, copies, 2)).astype(np.float32)
    last = random.normal(size=(copies, 2)).astype(np.float32)
    going = (random.random((steps, copies)) > 0.3).astype(np.float32)
    wanted = np.zeros_like(gain)
    for copy in range(copies):
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                after = value[t + 1, copy] if t + 1 < steps else last[copy]
                error = gain[t, copy] + gamma * going[t, copy] * after - value[t, copy]
                wanted[start, copy] += weight * error
                if not going[t, copy]:
                    break
                weight *= gamma * lam
    found = objective.advantages(*map(jnp.asarray, (gain, value, last, going)), gamma, lam)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_clipped_objective_gains_nothing_beyond_the_clip() -> None:
    ratio, advantage = jnp.array([0.5, 1.0, 1.5, 0.5, 1.5]), jnp.array([1.0, 1, 1, -1, -1])
    slope = jax.vmap(jax.grad(partial(objective.clipped, clip=0.2)))(ratio, advantage)
    np.testing.assert_allclose(
        objective.clipped(ratio, advantage, 0.2), [0.5, 1, 1.2, -0.8, -1.5], rtol=1e-6
    )
    np.testing.assert_array_equal(slope, [1, 1, 0, 0, -1])  # none where it would go on for nothing


def test_rewards_are_standardized_and_costs_only_centered() -> None:
    given = np.random.default_rng(1).normal(3, 5, (4, 6, 2)).astype(np.float32)
    reward, cost = given[..., 0], given[..., 1]
    plain = (reward - reward.mean()) / reward.std()
    found = objective.weighed(jnp.asarray(given[..., :1]), jnp.zeros(0))
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)
    found = objective.weighed(jnp.asarray(given), jnp.array([2.0]))
    np.testing.assert_allclose(found, (plain - 2 * (cost - cost.mean())) / 3, rtol=1e-4, atol=1e-5)


def test_policies_are_distributions() -> None:
    out = jax.random.normal(jax.random.key(0), (4,))
    choice = policies.Choice(4)
    log = choice.log_prob(jnp.tile(out, (4, 1)), jnp.arange(4))
    assert float(jnp.exp(log).sum()) == pytest.approx(1, abs=1e-5)
    assert float(choice.entropy(out)) == pytest.approx(-float(jnp.exp(log) @ log), abs=1e-5)
    one = policies.Gaussian(1)
    x, out = jnp.linspace(-20, 20, 4001)[:, None], jnp.array([0.7, 0.4])
    density = jnp.exp(one.log_prob(jnp.tile(out, (4001, 1)), x)) * 0.01
    moments = [float((density * x[:, 0] ** n).sum()) for n in range(3)]
    assert moments == pytest.approx([1, 0.7, 0.49 + np.exp(0.8)], abs=1e-3)
    assert float(one.entropy(out)) == pytest.approx(0.4 + 0.5 * np.log(2 * np.pi * np.e), abs=1e-5)
    many = one.sample(jnp.tile(out, (20_000, 1)), jax.random.key(1))
    assert float(many.mean()) == pytest.approx(0.7, abs=0.04)
    assert float(many.std()) == pytest.approx(np.exp(0.4), abs=0.04)


@partial(jax.tree_util.register_dataclass, data_fields=["reward"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Bandit:
    """Two arms; the second costs 1, and an episode is one step."""

    reward: Array

    def reset(self, key: Array) -> Array:
        return jnp.zeros(())

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, Array, Array]:
        return state, self.reward[action], jnp.array(True)

    def observe(self, state: Array) -> Array:
        return jnp.ones(1)

    def costs(self, state: Array, action: Array) -> Array:
        return (action == 1).astype(jnp.float32)[None]


def test_a_bandit_with_a_bound_ends_at_the_constrained_optimum() -> None:
    """The best policy within the bound takes the costly arm, where it pays, as often as allowed."""
    bandit = Bandit(jnp.array([[0.0, 1.0], [1.0, 0.0]]))  # it pays in the first seed only
    settings = ppo.Ppo(copies=64, steps=4, batches=2, learning_rate=5e-3, entropy=0.01)
    made = lambda rngs: networks.Trunk(1, 2, 2, 8, rngs)
    bound = jsparse.optim.Multiplier(0.3, integral=0.2)
    kind, policy = networks.Kind(), policies.Choice(2)
    trainer = ppo.Trainer(settings, policy, made, kind, last=1, bounds=(bound,))
    learner, report = trainer.learn(trainer.begin((1, 2), bandit), bandit, iterations=300)
    costs, prices, score = (
        np.asarray(one)[:, -150:].mean(axis=1)
        for one in (report.costs[..., 0], report.prices[..., 0], report.score)
    )
    assert costs[0] == pytest.approx(0.3, abs=0.05) and costs[1] < 0.05
    assert prices[0] > 0.5 and prices[1] == 0
    assert score[0] == pytest.approx(costs[0], abs=1e-5) and score[1] > 0.95
    out, value = trainer.agent(learner, 1).network(jnp.ones((1, 1)))
    assert float(jax.nn.softmax(out)[0, 0]) > 0.95
    np.testing.assert_allclose(value[0], [1, 0], atol=0.1)  # what the reward and the cost are


@partial(jax.tree_util.register_dataclass, data_fields=["best"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Target:
    """Numbers are paid by how near they are to the best ones; an episode is two steps."""

    best: Array

    def reset(self, key: Array) -> Array:
        return jnp.zeros(())

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, Array, Array]:
        return state + 1, -((action - self.best) ** 2).sum(), state > 0

    def observe(self, state: Array) -> Array:
        return jnp.stack([1.0, state])


@pytest.mark.slow
def test_numbers_are_learned_while_masks_move() -> None:
    settings = ppo.Ppo(copies=64, steps=4, learning_rate=5e-3, entropy=0.0, every=10, fraction=0.3)
    kind = networks.kinds(0.5, alpha=1e-5)["SET"]
    made = lambda rngs: networks.Apart(2, 4, 1, 8, rngs)
    trainer = ppo.Trainer(settings, policies.Gaussian(2), made, kind, last=600)
    target = Target(jnp.array([[0.5, -0.3], [0.0, 0.8]]))
    learner = trainer.begin((1, 2), target)
    before = [jsparse.masks(trainer.agent(learner, seed).network) for seed in range(2)]
    learner, report = trainer.learn(learner, target, iterations=100)
    played = np.asarray(trainer.play(learner, target, jax.random.key(0), 500, 3))
    assert played.shape == (2, 500)
    near = np.asarray(report.score)[:, -10:].mean(axis=1)  # of two steps, whatever the limit
    np.testing.assert_allclose(played.mean(axis=1), near, atol=0.1)
    for seed in range(2):
        network = trainer.agent(learner, seed).network
        for step in range(2):
            mean = network(jnp.array([[1.0, step]]))[0][0, :2]
            np.testing.assert_allclose(mean, target.best[seed], atol=0.15)
        after = jsparse.masks(network)
        assert before[seed].keys() == after.keys() and len(after) == 4
        for path, mask in after.items():
            assert mask.sum() == before[seed][path].sum()
        assert any((after[path] != before[seed][path]).any() for path in after)


@pytest.mark.slow
def test_a_policy_that_went_too_far_stays_where_it_is() -> None:
    """Bounds that nothing keeps leave one pass of three, and those that all keep leave all."""
    target, made = Target(jnp.zeros((1, 2))), lambda rngs: networks.Apart(2, 4, 1, 8, rngs)
    base = ppo.Ppo(copies=8, steps=4, passes=3, batches=1)

    def learned(**changed: Any) -> list[np.ndarray]:
        settings = dataclasses.replace(base, **changed)
        trainer = ppo.Trainer(settings, policies.Gaussian(2), made, networks.Kind(), last=1)
        learner, _ = trainer.learn(trainer.begin((1,), target), target, iterations=1)
        network = trainer.agent(learner, 0).network
        return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))]

    one, three = learned(passes=1), learned()
    for found, wanted in ((learned(far=-1.0), one), (learned(far=1e9), three)):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert any(abs(a - b).max() > 1e-4 for a, b in zip(one, three, strict=True))


@pytest.mark.slow
def test_every_way_of_being_sparse_starts() -> None:
    dense: Any = networks.Trunk(20, 4, 1, (30, 10), nnx.Rngs(0))
    shares = {}
    for how, kind in networks.kinds(0.2, alpha=1e-4).items():
        found = networks.weights(kind.start(dense, jax.random.key(0)))
        kept, size = np.sum([found[f"net/fc{n}/kernel"] for n in (1, 2)], axis=0)
        shares[how] = kept / size
    sparse = {how: 0.2 for how in ("uniform", "Erdos-Renyi", "SET", "RigL")}
    assert shares == pytest.approx({"dense": 1, "thresholds": 1} | sparse, abs=0.01)


def test_batches_must_divide_the_steps() -> None:
    with pytest.raises(ValueError, match=r"128 copies of 32 steps are not a multiple of 3 batches"):
        ppo.Ppo(batches=3)


def test_the_headline_by_sparsity_has_mean_spread_and_seeds() -> None:
    arms = {
        "dense": headline.Arm(1.0, [2.0, 1.0]),
        "thresholds": headline.Arm([0.1, 0.2], [0.25]),
        "SNIP": headline.Arm(0.01, []),
    }
    assert headline.by_sparsity("return", arms).splitlines() == [
        "return by sparsity:",
        "",
        "            sparsity    mean  spread  seeds",
        "----------  --------  ------  ------  -----",
        "dense          0.0 %    1.50    0.71      2",
        "thresholds    85.0 %    0.25              1",
        "SNIP          99.0 %  no run              0",
    ]


def test_a_claim_is_met_or_refuted_by_enough_seeds() -> None:
    word = lambda held, **least: headline.verdict("a rise", held, "", **least).partition(" (")[0]
    assert word([True] * 3) == "met" and word([False] * 3) == "refuted"
    assert word([True, True, False]) == "not settled"
    assert word([True] * 4 + [False], least=0.8) == "met"
    assert word([True] + [False] * 4, least=0.8) == "refuted"
    assert word([True] * 3 + [False] * 2, least=0.8) == "not settled"
    assert word([True, True]) == word([False]) == "too few seeds to say"
