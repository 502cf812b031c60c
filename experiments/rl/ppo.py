"""PPO, with sparse networks or dense ones, and with bounds on costs where there are any.

1. Copies of the environment take some steps side by side, with the policy as it is.
2. Advantages are those of GAE: d_t = r_t + gamma V_{t+1} - V_t, A_t = d_t + gamma lambda A_{t+1},
   where nothing is added from beyond the end of an episode.
3. Some passes over these steps, in batches: ascend min(ratio A, clip(ratio) A) and the entropy of
   the policy, and let the values regress on A + V. After a pass by which the policy has gone too
   far, by the mean of log pi_old - log pi, no more follow.
4. Each cost has its own critic and multiplier nu. The advantages of rewards are standardized and
   those of costs only centered, so that a cost that does not vary is not inflated:
   A = (A_r - sum of nu A_c) / (1 + sum of nu). After step 1 a multiplier is updated by the mean
   cost of a step.

Masks under a revision change with the steps of the optimizer.

Reference: Schulman et al., Proximal policy optimization algorithms, 2017, arXiv 1707.06347; Ray,
Achiam and Amodei, Benchmarking safe exploration in deep reinforcement learning, 2019, for 4.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments.rl.environments import Environment
from experiments.rl.learning import Agent, chosen, per_seed, stacked
from experiments.rl.networks import Kind
from experiments.rl.objective import advantages, clipped, weighed
from experiments.rl.policies import Policy
from experiments.rl.rollout import Learner, Report, Steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ppo:
    """Settings."""

    copies: int = 128
    """Of the environment."""
    steps: int = 32
    """Of each copy, before the networks are improved."""
    passes: int = 2
    """Over these steps."""
    batches: int = 4
    """Of a pass, each a step of the optimizer."""
    learning_rate: float = 5e-4
    """Of Adam."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """Of GAE."""
    clip: float = 0.2
    """How far the ratio of probabilities counts beyond 1."""
    entropy: float = 0.03
    """Weight of the policy's entropy."""
    value: float = 0.5
    """Weight of the squared errors of values."""
    norm: float = 0.5
    """Largest norm of a gradient."""
    far: float = math.inf
    """Divergence from the policy that took the steps, beyond which no more passes follow."""
    every: int = 100
    """Steps of the optimizer between changes of the masks."""
    fraction: float = 0.1
    """Of a matrix's links, exchanged at each change."""

    def __post_init__(self) -> None:
        if self.copies * self.steps % self.batches:
            raise ValueError(
                f"{self.copies} copies of {self.steps} steps are not a multiple of {self.batches} "
                "batches; change one of them"
            )


class Trainer:
    """Compiled learning and playing, of all seeds.

    Args:
      policy: what the outputs of the network mean.
      network: rngs -> a dense network, `Trunk` or `Apart`, with a critic for the reward and one for
        each bound.
      last: the step of the optimizer after which masks are fixed.
      bounds: multipliers at their start; the environment is a `Costly` one where there are any.
    """

    def __init__(
        self,
        settings: Ppo,
        policy: Policy,
        network: Callable[[nnx.Rngs], nnx.Module],
        kind: Kind,
        last: int,
        bounds: tuple[jsparse.optim.Multiplier, ...] = (),
    ):
        self.settings, self.policy, self.kind, self.last = settings, policy, kind, last
        self.network, self.bounds = network, bounds
        self.learn = jax.jit(self._learn, static_argnames="iterations", donate_argnums=0)
        self.play = jax.jit(self._play, static_argnames=("episodes", "limit"))
        self.read = jax.jit(self._read)
        self.act = jax.jit(self._act)
        self._part = jax.jit(lambda agents, n: jax.tree.map(lambda leaf: leaf[n], agents))
        self.learn_from = jax.jit(self._learn_from, donate_argnums=0)

    def begin(
        self, seeds: Sequence[int], environment: Environment, kind: Kind | None = None
    ) -> Learner:
        """Learners side by side, each in its environment: leaves [seeds, ...].

        Args:
          seeds: one for each learner.
          environment: leaves [seeds, ...].
          kind: of these learners, where not the trainer's. Kinds whose networks have the same
            arrays share a program, so that they may differ only in which links there are.
            Learners of an earlier `begin` with another kind can no longer be read by `agent`.
        """
        made = [self._agent(seed, kind or self.kind) for seed in seeds]
        self._graph = nnx.graphdef(made[0])
        keys = jax.vmap(jax.random.key)(jnp.array(seeds))

        def start(agent: Any, key: Array, environment: Environment) -> Learner:
            keys = jax.random.split(key, self.settings.copies)
            places = jax.vmap(environment.reset)(keys)
            zero = jnp.zeros(self.settings.copies)
            bounds = jax.tree.map(jnp.copy, self.bounds)
            return Learner(agent, places, zero, bounds, jax.random.fold_in(key, 1))

        def begun(agents: list, *given: Any) -> Learner:
            return jax.vmap(start)(stacked(agents), *given)

        return jax.jit(begun)([nnx.state(one) for one in made], keys, environment)

    def agent(self, learner: Learner, seed: int) -> Agent:
        """That of one seed, by its place in `begin`."""
        return nnx.merge(self._graph, self._part(learner.agent, seed))

    def _read(self, learner: Learner, observation: Array) -> tuple[Array, Array]:
        """Outputs of the policy and values of [seeds, n, observed]: [seeds, n, ...] each."""
        return jax.vmap(lambda state, x: nnx.merge(self._graph, state).network(x))(
            learner.agent, observation
        )

    def _act(self, learner: Learner, observation: Array, key: Array) -> tuple[Array, ...]:
        """Actions, their logarithms of probability and values, of [seeds, n, observed]."""
        out, value = self._read(learner, observation)
        action = self.policy.sample(out, key)
        return action, self.policy.log_prob(out, action), value

    def _learn_from(
        self, learner: Learner, seen: Steps, last: Array, ended: Array
    ) -> tuple[Learner, Report]:
        """2. to 4. on steps from outside JAX, [seeds, steps, copies, ...]: what `act` chose.

        Values `last` [seeds, copies, 1 + bounds] are those after the steps; `ended` [seeds, steps,
        copies] are rewards of episodes up to each step.
        """

        def one(learner: Learner, *given: Any) -> tuple[Learner, Report]:
            key, order = jax.random.split(learner.key)
            return self._learned(learner._replace(key=key), *given, order)

        return jax.vmap(one)(learner, seen, last, ended)

    def _agent(self, seed: int, kind: Kind) -> Agent:
        network = kind.start(self.network(nnx.Rngs(seed)), jax.random.key(seed))
        one = self.settings
        adam = optax.adam(one.learning_rate, eps=1e-5)
        tx = optax.chain(optax.clip_by_global_norm(one.norm), adam)
        when = {"every": one.every, "last": self.last, "fraction": one.fraction}
        return Agent(network, tx, kind, seed, first=one.every, **when)

    def _learn(
        self, learner: Learner, environment: Environment, iterations: int
    ) -> tuple[Learner, Report]:
        """A number of iterations; and reports [seeds, iterations, ...]."""

        def one(learner: Learner, environment: Environment) -> tuple[Learner, Report]:
            again = lambda learner, _: self._iteration(learner, environment)
            return jax.lax.scan(again, learner, None, length=iterations)

        return per_seed(one)(learner, environment)

    def _iteration(self, learner: Learner, environment: Environment) -> tuple[Learner, Report]:
        agent = nnx.merge(self._graph, learner.agent)
        key, walk, order = jax.random.split(learner.key, 3)
        places, earned, seen, ended = self._walk(agent, learner, environment, walk)
        last = agent.network(jax.vmap(environment.observe)(places))[1]
        now = learner._replace(places=places, earned=earned, key=key)
        return self._learned(now, seen, last, ended, order)

    def _learned(
        self, learner: Learner, seen: Steps, last: Array, ended: Array, key: Array
    ) -> tuple[Learner, Report]:
        """2. to 4.: values `last` [copies, 1 + bounds] after the steps, rewards `ended`."""
        rates = self.settings.gamma, self.settings.lam
        advantage = advantages(seen.gain, seen.value, last, seen.going, *rates)
        costs = seen.gain[..., 1:].mean(axis=(0, 1))
        bounds = tuple(one.update(cost) for one, cost in zip(learner.bounds, costs, strict=True))
        prices = jnp.stack([one.value for one in bounds]) if bounds else jnp.zeros(0)
        given = seen, weighed(advantage, prices), advantage + seen.value
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), given)
        state, loss = self._improved(learner.agent, flat, key)
        over = 1 - seen.going
        score = (over * ended).sum() / over.sum()
        return (
            learner._replace(agent=state, bounds=bounds),
            Report(score, over.sum(), costs, prices, loss),
        )

    def _walk(
        self, agent: Agent, learner: Learner, environment: Environment, key: Array
    ) -> tuple[Any, Array, Steps, Array]:
        """1.: where the copies are, what they earned, what they saw, and rewards of episodes."""
        network = jsparse.resolve(agent.network)

        def step(at: tuple[Any, Array], key: Array) -> tuple[tuple, tuple]:
            places, earned = at
            act, move, new = jax.random.split(key, 3)
            observation = jax.vmap(environment.observe)(places)
            out, value = network(observation)
            action = self.policy.sample(out, act)
            keys = jax.random.split(move, self.settings.copies)
            after, reward, end = jax.vmap(environment.step)(places, action, keys)
            gain = reward[:, None]
            if self.bounds:
                costs = jax.vmap(environment.costs)(places, action)  # type: ignore
                gain = jnp.concatenate([gain, costs], axis=1)
            log_prob, going = self.policy.log_prob(out, action), 1.0 - end
            earned = earned + reward
            fresh = jax.vmap(environment.reset)(jax.random.split(new, self.settings.copies))
            row = Steps(observation, action, log_prob, value, gain, going)
            return (chosen(end, fresh, after), earned * going), (row, earned)

        keys = jax.random.split(key, self.settings.steps)
        at, (seen, ended) = jax.lax.scan(step, (learner.places, learner.earned), keys)
        return *at, seen, ended

    def _improved(self, state: Any, given: tuple, key: Array) -> tuple[Any, Array]:
        """3.: the agent after all passes, and the loss of the last batch."""

        def batch(state: Any, index: Array) -> tuple[Any, Array]:
            agent = nnx.merge(self._graph, state)
            rows = jax.tree.map(lambda leaf: leaf[index], given)
            loss = agent.improve(partial(self._loss, given=rows))
            return nnx.state(agent), loss

        def once(state: Any, key: Array) -> tuple[Any, Array, Array]:
            parts = jax.random.permutation(key, count).reshape(self.settings.batches, -1)
            state, losses = jax.lax.scan(batch, state, parts)
            return state, losses[-1], self._far(state, given[0]) <= self.settings.far

        def again(at: tuple, key: Array) -> tuple[tuple, None]:
            return jax.lax.cond(at[2], lambda at: once(at[0], key), lambda at: at, at), None

        count = len(given[1])
        start = state, jnp.zeros(()), jnp.array(True)
        keys = jax.random.split(key, self.settings.passes)
        (state, loss, _), _ = jax.lax.scan(again, start, keys)
        return state, loss

    def _far(self, state: Any, seen: Steps) -> Array:
        """The divergence of 3., []."""
        if self.settings.far == math.inf:
            return jnp.zeros(())
        out = nnx.merge(self._graph, state).network(seen.observation)[0]
        return (seen.log_prob - self.policy.log_prob(out, seen.action)).mean()

    def _loss(self, network: Any, given: tuple[Steps, Array, Array]) -> Array:
        seen, advantage, wanted = given
        out, value = network(seen.observation)
        ratio = jnp.exp(self.policy.log_prob(out, seen.action) - seen.log_prob)
        gained = clipped(ratio, advantage, self.settings.clip).mean()
        gained += self.settings.entropy * self.policy.entropy(out).mean()
        return self.settings.value * ((value - wanted) ** 2).mean(axis=0).sum() - gained

    def _play(
        self, learner: Learner, environment: Environment, key: Array, episodes: int, limit: int
    ) -> Array:
        """Rewards [seeds, episodes] of episodes, each of `limit` steps at most."""

        def one(state: Any, environment: Environment, key: Array) -> Array:
            network = jsparse.resolve(nnx.merge(self._graph, state).network)

            def step(at: tuple, key: Array) -> tuple[tuple, None]:
                places, total, going = at
                act, move = jax.random.split(key)
                out = network(jax.vmap(environment.observe)(places))[0]
                keys = jax.random.split(move, episodes)
                action = self.policy.sample(out, act)
                places, reward, end = jax.vmap(environment.step)(places, action, keys)
                return (places, total + going * reward, going * (1.0 - end)), None

            first, others = jax.random.split(key)
            places = jax.vmap(environment.reset)(jax.random.split(first, episodes))
            start = places, jnp.zeros(episodes), jnp.ones(episodes)
            return jax.lax.scan(step, start, jax.random.split(others, limit))[0][1]

        seeds = len(learner.key)
        return per_seed(one)(learner.agent, environment, jax.random.split(key, seeds))
