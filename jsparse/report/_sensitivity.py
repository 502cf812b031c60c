"""How much each layer alone may be pruned: the score of a model with one pruned layer.

For each layer and density only the weights of that layer with the lowest magnitude are pruned. All
are scored by one compiled function.

Reference: Li et al., Pruning filters for efficient convnets, ICLR 2017, section 3.2; Han et al.,
Learning both weights and connections, 2015, figure 6.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from jsparse._checks import check_density, require
from jsparse._pattern import Scope, Unit, Weight, Whole, WholeModel
from jsparse._pure import calling
from jsparse._slots import check_module
from jsparse._surgery import fold, hold, masks, sparsify
from jsparse._untraced import outside_jit
from jsparse._values import check_function, each_batch, is_number, patterns_of, shown
from jsparse.report._figures import Line, chart
from jsparse.report._page import MOST_LAYERS, check_html_path, write_page
from jsparse.report._table import table
from jsparse.report._units import percent
from jsparse.rules._held import Held
from jsparse.rules._top import Top

SINGLE, ALL = Weight(), Whole()


@dataclasses.dataclass(frozen=True, eq=False)
class Sensitivity:
    """Scores of a model with one layer pruned; print it, or `page` it.

    Attributes:
      whole: the score of the model as it is.
      densities: of the layer, highest first.
      scores: [densities] by path of the layer.
    """

    whole: float
    densities: tuple[float, ...]
    scores: Mapping[str, np.ndarray]

    def _cells(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """The scores as text: a row for each layer, below the densities."""
        rows = [[path, *(f"{one:.4g}" for one in own)] for path, own in self.scores.items()]
        return ("layer", *map(percent, self.densities)), rows

    def __str__(self) -> str:
        whole = [f"{self.whole:.4g}"] * len(self.densities)
        return table(*self._cells(), ("none", *whole), 1)

    def page(self, out: str | Path = "sensitivity.html") -> Path:
        """Write one HTML page: a line for each layer, score by density. It needs no network.

        Args:
          out: the file.

        Raises:
          ImportError: matplotlib or Jinja2 is not installed.
        """
        require("jinja2 matplotlib", "report", "a page")
        check_html_path(out, "a.html")
        # the layers that fall furthest first, as there may be more than fit
        paths = sorted(self.scores, key=lambda path: self.scores[path].min())[:MOST_LAYERS]
        x = np.array([1.0, *self.densities])
        lines = [
            Line(path, x, np.array([self.whole, *self.scores[path]]), style=n)
            for n, path in enumerate(paths)
        ]
        title = "Score by density of one layer"
        if len(paths) < len(self.scores):
            title += f", the {len(paths)} that fall furthest"
        content = {
            "title": "Sensitivity of the layers",
            "about": f"{len(self.scores)} layers; the whole model scores {self.whole:.4g}",
            "search": {
                "heading": "One layer at a time",
                "charts": [chart(title, lines, "density of the layer", "density", "score")],
                "front": self._cells(),
            },
        }
        return write_page(Path(out), content)


@outside_jit
def sensitivity(
    model: nnx.Module,
    score: Callable[[Any, Any], Array],
    batches: Iterable[Any],
    *,
    weights: str | Collection[str] = ".*kernel",
    densities: Collection[float] = (0.5, 0.25, 0.1, 0.05),
    unit: Unit = SINGLE,
    scope: Scope = ALL,
) -> Sensitivity:
    """Score a model with one layer pruned to each of some densities, by magnitude.

    Args:
      model: trained, in eval mode while it is scored; not changed. Weights that rules mask are
        zeros, and are pruned first.
      score: score(model, batch) -> [], such as the accuracy on the batch.
      batches: of the same shape, or each shape is compiled by itself; the score of a model is the
        mean over them.
      weights: patterns, as in `sparsify`, of the weights that are pruned one at a time.
      densities: fractions of the units of the layer to keep, in (0, 1].
      unit: what is pruned together, such as `Filter()`.
      scope: which units compete, such as `Groups(4)`.

    Returns:
      The scores, which can be printed.

    Raises:
      TypeError, ValueError: wrong arguments; a pattern that matches no parameter; a score that is
        not one number; the scope `WholeModel`.

    Example:
      >>> import jax.numpy as jnp
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs))
      >>> score = lambda model, x: -((model(x) - x[:, :3]) ** 2).mean()
      >>> found = sensitivity(model, score, [jnp.eye(4)], densities=(0.5, 0.1))
      >>> list(found.scores), found.scores["layers/0/kernel"].shape
      (['layers/0/kernel', 'layers/2/kernel'], (2,))
    """
    check_module(model)
    check_function(score=score)
    batches = list(each_batch(batches))
    if isinstance(scope, WholeModel):
        raise ValueError("scope is within a layer, as one is pruned at a time; got WholeModel()")
    wanted = _checked(densities)
    patterns = patterns_of(weights=weights)
    plain = fold(model)
    held = sparsify(plain, *((pattern, Held()) for pattern in patterns))
    held.eval()
    form = nnx.split(held)[0]
    run = jax.jit(lambda state, batch: score(nnx.merge(form, state), batch))

    def scored(changed: Mapping[str, Array]) -> float:
        state = nnx.split(hold(held, changed))[1]
        with calling("batches", batches[0]):
            found = [run(state, batch) for batch in batches]
        for one in found:
            if not (is_number(one) or (isinstance(one, jax.Array) and not one.shape)):
                raise ValueError(
                    f"score must give one number; got {shown(one)}. Take the mean over the batch"
                )
        return float(np.mean(np.asarray(found, np.float64)))

    whole = scored({})
    rules = [Top(density=density, unit=unit, scope=scope) for density in wanted]
    chosen = [masks(sparsify(plain, *((p, rule) for p in patterns))) for rule in rules]
    scores = {path: np.array([scored({path: own[path]}) for own in chosen]) for path in chosen[0]}
    return Sensitivity(whole, wanted, scores)


def _checked(densities: Any) -> tuple[float, ...]:
    """The densities, highest first."""
    if isinstance(densities, str | Mapping) or not isinstance(densities, Collection):
        hint = f"; pass ({densities},)" if is_number(densities) else ""
        raise TypeError(f"densities must be a tuple of fractions; got {shown(densities)}{hint}")
    if not len(densities):
        raise ValueError("densities must be a tuple of fractions, one or more; got none")
    return tuple(sorted({check_density(one) for one in densities}, reverse=True))
