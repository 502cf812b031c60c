"""Which model transfers best to new data: scores from its features or its predictions.

`transfer` ranks models by LogME; LEEP and NCE read what a classifier predicts on the new data.
Numbers, with published ones: `experiments/transfer_score.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from jsparse._pure import calling, evaluated
from jsparse._slots import check_module
from jsparse._values import check_function, check_mapping, shown
from jsparse.report._logme import logme
from jsparse.report._samples import read_classes, read_table
from jsparse.report._summary import summary
from jsparse.report._table import cells, table


def leep(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Log expected empirical prediction: how well source probabilities predict target classes.

        P(y | z) = sum_i [y_i = y] p_i(z) / sum_i p_i(z)
        LEEP = mean over i of log sum_z P(y_i | z) p_i(z)

    Args:
      probabilities: of the source classes, [samples, source classes]: softmax of the model's output
        on the new data.
      targets: classes of the new data, integers [samples] from 0 on.

    Returns:
      Nats per sample, 0 or less; higher is better.

    Raises:
      TypeError: arguments are not numbers, or targets not integers.
      ValueError: rows that are not probabilities, other lengths, fewer than two classes, a class
        without a sample.

    Example:
      >>> round(leep([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8]], [0, 0, 1]), 3)
      -0.317

    Reference: Nguyen et al., LEEP: A New Measure to Evaluate Transferability of Learned
    Representations, ICML 2020, section 3.
    """
    p = read_table("probabilities", probabilities)
    y = read_classes("targets", targets, len(p))
    sums = p.sum(1)
    if p.min() < 0 or np.abs(sums - 1).max() > 1e-2:
        row = int(np.argmax(np.maximum(np.abs(sums - 1), -p.min(1))))
        raise ValueError(
            "probabilities must be 0 or more with rows that sum to 1, such as a softmax; got "
            f"{shown(probabilities)} with row {row} from {p[row].min():.4g} and of sum "
            f"{sums[row]:.4g}"
        )
    joint = np.stack([p[y == one].sum(0) for one in range(y.max() + 1)])
    given = joint / np.maximum(joint.sum(0), np.finfo(float).tiny)
    return float(np.log((given[y] * p).sum(1)).mean())


def nce(sources: ArrayLike, targets: ArrayLike) -> float:
    """Negative conditional entropy of the target classes, given the source classes.

        NCE = sum_z P(z) sum_y P(y | z) log P(y | z)

    Args:
      sources: source classes, integers [samples] from 0 on: what the model predicts on the new
        data, by argmax. Classes may be missing.
      targets: classes of the new data, integers [samples] from 0 on.

    Returns:
      Nats per sample, 0 or less; higher is better.

    Raises:
      TypeError: arguments are not integers.
      ValueError: other lengths, fewer than two target classes, one without a sample.

    Example:
      >>> round(nce([0, 0, 7, 7], [0, 0, 1, 0]), 3)
      -0.347

    Reference: Tran et al., Transferability and Hardness of Supervised Classification Tasks, ICCV
    2019, section 4.
    """
    y = read_classes("targets", targets, np.size(targets))
    z = read_classes("sources", sources, len(y), whole=False)
    counts = np.zeros((len(np.unique(z)), y.max() + 1))
    np.add.at(counts, (np.unique(z, return_inverse=True)[1], y), 1)
    given = counts / counts.sum(1, keepdims=True)
    return float((counts * np.log(np.where(counts > 0, given, 1.0))).sum() / len(y))


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that may be transferred.

    Attributes:
      score: LogME of its features, in nats per sample.
      features: how many there are.
      live: how many of them differ between inputs; the others are dead.
      density: fraction kept of the weights under a rule.
      parameters: number kept, those without a rule included.
    """

    score: float
    features: int
    live: int
    density: float
    parameters: int


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A ranking; print it, or read its fields.

    Attributes:
      rows: a Candidate for each model, by name, best first.
    """

    rows: dict[str, Candidate]

    @property
    def best(self) -> str:
        """Name of the model with the highest score."""
        return next(iter(self.rows))

    def to_dict(self) -> dict:
        """The ranking as plain numbers, ready for JSON."""
        return {name: dataclasses.asdict(row) for name, row in self.rows.items()}

    def __str__(self) -> str:
        head = ("model", "LogME", "features", "live", "density", "parameters")
        lines = [
            cells("s .4f , , .2% ,", name, r.score, r.features, r.live, r.density, r.parameters)
            for name, r in self.rows.items()
        ]
        return table(head, lines, text=1)


def transfer(
    models: Mapping[str, nnx.Module],
    features: Callable[[Any, Any], ArrayLike],
    inputs: Any,
    targets: ArrayLike,
) -> Transfer:
    """Rank models, such as one at several densities, by how well they will transfer: by LogME.

    Args:
      models: by name.
      features: (model, inputs) -> [samples, features], such as what the last layer reads. The model
        is a copy in eval mode. Wrap it in `nnx.jit` if it is slow, and read large data in parts
        inside.
      inputs: of the new data, given to `features` as they are.
      targets: of the new data, as for `logme`.

    Returns:
      A Transfer, which prints as a table, best first: scores, and how many features are alive.

    Raises:
      TypeError: models are not modules by name, or features is not a function.
      ValueError: there are no models, `features` fails, or `logme` refuses what it returns; the
        message names the model. Any other error that `features` raises gets a note that does.

    Example:
      >>> import jax
      >>> from jsparse import Top
      >>> from jsparse._surgery import sparsify
      >>> dense = nnx.Linear(8, 6, rngs=nnx.Rngs(0))
      >>> models = {"dense": dense, "5 %": sparsify(dense, ("kernel", Top(density=0.05)))}
      >>> x = jax.random.normal(jax.random.key(0), (64, 8))
      >>> labels = (x[:, 0] > 0).astype(int)
      >>> found = transfer(models, lambda model, x: jax.nn.relu(model(x)), x, labels)
      >>> found.best, found.rows["5 %"].live
      ('dense', 2)
    """
    check_mapping("models by name", models=models)
    check_function(features=features)
    if not models:
        raise ValueError("models must hold at least one model by name; got none")
    rows = {}
    for name, model in models.items():
        check_module(model, f"models[{name!r}]")
        try:
            with calling(f"features of model {name!r}", inputs):
                made = np.asarray(features(evaluated(model), inputs))
        except Exception as error:
            error.add_note(f"raised by features of model {name!r}")
            raise
        try:
            score = logme(made, targets).score
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (model {name!r})") from error
        counts = summary(model)
        live = int((made != made[:1]).any(0).sum())
        parameters = counts.kept + counts.dense
        rows[name] = Candidate(score, made.shape[1], live, counts.density, parameters)
    return Transfer(dict(sorted(rows.items(), key=lambda row: -row[1].score)))
