"""Dynamic Sparse Training of two-layer LSTMs on MNIST, read row by row.

Claim: learned thresholds make recurrent networks sparse to about one weight in a hundred.

Paper: Liu et al., Dynamic Sparse Training, ICLR 2020, Table 1: LSTM-a (128 units) 98.64 -> 98.70 at
    1.93 %, LSTM-b (256 units) 98.87 -> 98.89 at 0.98 %.

Command: python -m experiments.dst_lstm
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments import common, datasets, networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.StudySettings):
    """The defaults are the paper's recipe."""

    network: Literal["lstm-a", "lstm-b"] = "lstm-a"
    """Two layers of 128 or of 256 units."""
    alphas: tuple[float, ...] = (1e-3,)
    epochs: int = 20
    batch: int = 100
    learning_rate: float = 1e-3
    """Of Adam."""


PUBLISHED = {
    "lstm-a": common.Published(dense="98.64 ± 0.12", sparse="98.70 ± 0.06", density="1.93 ± 0.03"),
    "lstm-b": common.Published(dense="98.87 ± 0.07", sparse="98.89 ± 0.11", density="0.98 ± 0.04"),
}
UNITS = {"lstm-a": 128, "lstm-b": 256}


def uniform(bound: float) -> Any:
    """Initializer: uniform within the bound."""
    return lambda key, shape, dtype=jnp.float32, **_: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class Classifier(nnx.Module):
    """Two LSTM layers over 28 rows of 28 pixels, and a dense layer on the last state."""

    def __init__(self, units: int, rngs: nnx.Rngs):
        start = uniform(units**-0.5)
        cells = [
            nnx.OptimizedLSTMCell(
                inputs, units, kernel_init=start, recurrent_kernel_init=start, rngs=rngs
            )
            for inputs in (28, units)
        ]
        self.lstm1, self.lstm2 = cells
        self.out = nnx.Linear(units, 10, kernel_init=uniform(0.1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28] to logits [n, 10]."""
        first = networks.run_lstm(self.lstm1, x)
        return self.out(networks.run_lstm(self.lstm2, first.swapaxes(0, 1))[-1])


def main(settings: Settings) -> None:
    """Train the dense and the sparse network and print them with the paper's figures."""
    images = datasets.mnist(settings.data)
    rate = common.learning_rate(settings, len(images.train_x))
    out = settings.out or f"runs/dst_lstm/{settings.network}"
    common.study(
        dataclasses.replace(settings, out=out),
        lambda rngs: Classifier(UNITS[settings.network], rngs),
        "lstm./dense_./kernel",
        optax.adam(rate),
        images,
        [PUBLISHED[settings.network]],
        common.turns_on_cpu(),
    )


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
