"""Pruning a trained transformer in one shot: Wanda and SparseGPT against magnitude.

Claim (the papers'): with a little calibration data and no training, half of the weights of a
    language model can be pruned at a small cost, where magnitude pruning costs much; more so for
    2:4. The quick setting shows it for SparseGPT; Wanda is level with magnitude there.

Papers: Frantar and Alistarh, SparseGPT, ICML 2023; Sun et al., Wanda, ICLR 2024, whose table for
    LLaMA-2-7B on WikiText has the perplexities dense 5.12; at 50 % magnitude 14.89, Wanda 6.42,
    SparseGPT 6.51; at 2:4 magnitude 54.59, Wanda 11.02, SparseGPT 10.17. Here a small transformer
    reads characters, so only the order can be compared.

Command: python -m experiments.one_shot            (a GPU)
         python -m experiments.one_shot --quick    (two cores, four minutes)

Number: with --quick, 2 seeds, perplexity at 2:4: dense 10.25, magnitude 12.72, Wanda 12.74,
    SparseGPT 11.25. With --seeds 1: dense 9.89; at 2:4 magnitude 13.32, with permuted channels
    12.30, Wanda 12.77 and 12.37; at 50 % Wanda 11.31, with the densities of OWL 10.97.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import jsparse
from experiments import common, datasets, networks
from jsparse import prune


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.RunSettings):
    """All seeds are trained in one program."""

    width: int = 128
    """Of the transformer."""
    blocks: int = 4
    heads: int = 4
    context: int = 128
    """Characters that it sees."""
    density: float = 0.5
    """Of the unstructured masks."""
    calibration: int = 128
    """Sequences of training text that pruning reads."""
    seeds: int = 3
    steps: int = 3000
    batch: int = 32
    learning_rate: float = 2e-3
    """Of Adam, falling to 0 along a cosine."""
    quick: bool = False
    """A smaller transformer and a shorter run."""

    def __post_init__(self) -> None:
        self.check_positive("width", "blocks", "heads", "context", "calibration")
        self.check_positive("seeds", "steps", "batch")
        if not 0 < self.density < 1:
            raise ValueError(f"--density is a fraction in (0, 1), got {self.density}")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"--width got {self.width}; give a multiple of 4 times the {self.heads} heads"
            )


QUICK = Settings(
    width=64, blocks=2, context=64, calibration=64, seeds=2, steps=600, batch=16, quick=True
)
PART = 100
"""Train steps between checkpoints, and sequences of text at once when testing."""
TESTED = 400
"""Stretches of test text."""


class Trainer:
    """Trains the transformers of all seeds side by side."""

    def __init__(self, settings: Settings, characters: int, text: Array):
        self.settings, self.text = settings, text
        self.make = partial(
            networks.Transformer,
            characters,
            width=settings.width,
            blocks=settings.blocks,
            heads=settings.heads,
            context=settings.context,
        )
        self.graph = nnx.graphdef(self.make(nnx.Rngs(0)))
        rate = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
        self.tx = optax.adamw(rate, weight_decay=0.1)
        self.some = jax.jit(jax.vmap(self._some, in_axes=(0, 0, 0, None)))

    def start(self) -> tuple[Any, Any, Array]:
        """Parameters and optimizer of each seed, and the mean loss so far."""

        def one(key: Array) -> tuple[Any, Any, Array]:
            params = nnx.state(self.make(nnx.Rngs(key)), nnx.Param)
            return params, self.tx.init(params), jnp.zeros(())

        return jax.vmap(one)(jax.vmap(jax.random.key)(jnp.arange(1, self.settings.seeds + 1)))

    def model(self, params: Any, seed: int) -> nnx.Module:
        """The model of one seed."""
        model = self.make(nnx.Rngs(0))
        nnx.update(model, jax.tree.map(lambda leaf: leaf[seed], params))
        return model

    def train(self, run: common.Run) -> Any:
        """All steps, from the last checkpoint on; the parameters."""
        done, state = run.load(self.start())
        seeds, steps = jnp.arange(1, self.settings.seeds + 1), self.settings.steps
        common.header(run.folder, "a transformer on text", len(seeds), f"{steps} steps")
        progress = common.Epochs(done // PART, -(-steps // PART), "transformer", f"{PART} steps")
        for part in progress:
            step = (part - 1) * PART
            state = self.some(*state[:2], seeds, step)
            common.check_finite(float(state[2].max()), step, {}, run)
            run.log(step + PART, loss=state[2])
            run.save(step + PART, state)
            progress.show(loss=float(state[2].mean()))
        return state[0]

    def _some(self, params: Any, optimizer: Any, seed: Array, first: Array) -> tuple:
        key = jax.random.fold_in(jax.random.key(seed), first)
        length = self.settings.context + 1

        def step(state: tuple, key: Array) -> tuple:
            params, optimizer = state
            text = datasets.stretches(key, self.text, self.settings.batch, length)

            def loss(params: Any) -> Array:
                model = self.make(nnx.Rngs(0))
                nnx.update(model, params)
                return networks.next_character_loss(model, text)

            value, grads = jax.value_and_grad(loss)(params)
            updates, optimizer = self.tx.update(grads, optimizer, params)
            return (optax.apply_updates(params, updates), optimizer), value

        keys = jax.random.split(key, PART)
        (params, optimizer), losses = jax.lax.scan(step, (params, optimizer), keys)
        return params, optimizer, losses.mean()


Way = Callable[[nnx.Module, list[Array]], nnx.Module]


def ways(density: float) -> dict[tuple[str, str], Way]:
    """Pruned copies, by method and pattern; magnitude is compared within each layer."""
    whole, groups = f"{100 * density:g} %", jsparse.Groups(4)
    top = jsparse.Top(density=0.5, scope=groups)
    layer = prune.by_layer()
    ordered = lambda m, text: jsparse.sparsify(
        prune.permute(jsparse.fold(m), text[0], density=0.5, scope=groups, weights=SPARSE)[0],
        (SPARSE, jsparse.Held()),
    )
    owl = lambda m, text: prune.owl(m, text, density=density, layers=r"blocks/layers/\d+")
    return {
        ("magnitude", whole): lambda m, _: prune.magnitude(m, density=density, choose=layer),
        ("Wanda", whole): lambda m, text: prune.wanda(m, text, density=density),
        ("SparseGPT", whole): lambda m, text: prune.sparsegpt(m, text, density=density),
        ("OWL and Wanda", whole): lambda m, text: prune.wanda(m, text, density=owl(m, text)),
        ("OWL and SparseGPT", whole): lambda m, text: prune.sparsegpt(
            m, text, density=owl(m, text)
        ),
        ("magnitude", "2:4"): lambda m, _: jsparse.hold(jsparse.sparsify(m, (SPARSE, top))),
        ("Wanda", "2:4"): lambda m, text: prune.wanda(m, text, density=0.5, scope=groups),
        ("SparseGPT", "2:4"): lambda m, text: prune.sparsegpt(m, text, density=0.5, scope=groups),
        ("permuted, magnitude", "2:4"): lambda m, text: jsparse.hold(
            jsparse.sparsify(ordered(m, text), (SPARSE, top))
        ),
        ("permuted, Wanda", "2:4"): lambda m, text: prune.wanda(
            ordered(m, text), text, density=0.5, scope=groups
        ),
    }


SPARSE = "blocks/.*/kernel"


def perplexity(model: nnx.Module, tested: Array) -> float:
    """Of the next character, on text [n, context + 1]."""
    graph, state = nnx.split(jsparse.fold(model))
    loss = jax.jit(lambda state, text: networks.next_character_loss(nnx.merge(graph, state), text))
    parts = np.split(tested, max(1, len(tested) // PART))
    return float(np.exp(np.mean([loss(state, part) for part in parts])))


def main(settings: Settings) -> None:
    """Train, prune by each method, print the table and draw the picture."""
    known, new, characters, name = datasets.shakespeare(settings.data)
    settings, out = settings.in_folder(f"runs/one_shot{'/quick' * settings.quick}")
    run = common.open_run(out, settings, text=name)
    if not run.complete:
        trainer = Trainer(settings, characters, known)
        params = trainer.train(run)
        length = settings.context + 1
        tested = datasets.stretches(jax.random.key(0), new, TESTED, length)
        marks: dict[str, list[float]] = {}
        for seed in range(settings.seeds):
            held = jsparse.sparsify(trainer.model(params, seed), (SPARSE, jsparse.Held()))
            key = jax.random.fold_in(jax.random.key(1), seed)
            seen = datasets.stretches(key, known, settings.calibration, settings.context)
            batches = jnp.split(seen, max(1, len(seen) // 32))
            marks.setdefault("dense", []).append(perplexity(held, tested))
            for (method, pattern), way in ways(settings.density).items():
                mark = perplexity(way(held, batches), tested)
                marks.setdefault(f"{method}, {pattern}", []).append(mark)
                print(f"seed {seed + 1}, {method}, {pattern}: {mark:.3f}", flush=True)
        run.finish(**marks)
    found = run.final()
    dense = found.pop("dense")
    patterns = list(dict.fromkeys(key.split(", ")[-1] for key in found))
    methods = list(dict.fromkeys(key.rpartition(", ")[0] for key in found))
    at = {m: [p for p in patterns if f"{m}, {p}" in found] for m in methods}
    mark = lambda m, p: common.mean_std(found[f"{m}, {p}"]) if p in at[m] else ""
    rows = [["dense", common.mean_std(dense), *[""] * (len(patterns) - 1)]]
    rows += [[m, *(mark(m, p) for p in patterns)] for m in methods]
    what = f"{settings.blocks} blocks of width {settings.width}, {settings.steps} steps"
    seeds = common.counted(settings.seeds, "seed")
    print(f"{name}, {what}, {seeds}, perplexity of a character (test text):\n")
    print(common.table(["", *patterns], rows))
    curves = {m: (at[m], [found[f"{m}, {p}"] for p in at[m]]) for m in methods}
    labels = ("weights kept", "perplexity of a character")
    common.draw({what: curves}, out / "one_shot.png", *labels, level=float(np.mean(dense)))
    print(f"\npicture: {out / 'one_shot.png'}\npage: {jsparse.report.page(out)}")


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
