"""SparseGPT: prune a trained layer and update the kept weights to preserve its outputs.

For a layer with weights W [inputs, outputs] and inputs X [n, inputs] (in a convolution the windows
of its input, [n, window * channels]):

1. H = X^T X. An input that is always 0 gets H_jj = 1, and its weights become 0.
2. H + damping * mean(diagonal H) * I; U is upper triangular with U^T U = its inverse.
3. The inputs are processed in blocks. Within each block, the highest w_ij^2 / U_ii^2 are kept,
   compared across all outputs. For N:M, the N highest of each M inputs are kept for each output,
   chosen when the first of the M is reached.
4. For input i, in order: e = (w_i - w_i * mask_i) / U_ii; the rest of the block becomes
   w_j - U_ij e, j >= i. This is the optimal brain surgeon's update of the later weights. A weight
   that was masked before starts at 0, whatever is stored.
5. After a block, the same update is applied to all later inputs at once.
6. The next layer is calibrated with the inputs that the pruned one gives it.

Here calibration is weight by weight; the authors proceed block by block through the transformer, as
the argument `together` allows.

Numbers: the rows "SparseGPT" of experiments/one_shot.py.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsparse._checks import all_finite
from jsparse._pattern import Groups, Scope, Whole
from jsparse._pure import Forward, call
from jsparse._sparse import Sparse
from jsparse._step import masked
from jsparse._surgery import Model
from jsparse._topk import top
from jsparse._untraced import outside_jit
from jsparse._values import by_density, check_in, check_whole, shown
from jsparse.prune._calibration import ALONE, densities_of, prune_in_order
from jsparse.prune._inputs import from_matrices, gram, inputs_of, matrices
from jsparse.rules._stacked import over_stack

WHOLE = Whole()


@by_density
@outside_jit
def sparsegpt(
    model: Model,
    batches: Iterable[Any],
    *,
    density: float | Mapping[str, float],
    scope: Scope = WHOLE,
    forward: Forward = call,
    block: int = 128,
    damping: float = 0.01,
    together: str = ALONE,
) -> Model:
    """A copy of the model, pruned and updated so that each layer gives nearly the same outputs.

    N of M is `density=n / m, scope=Groups(m)`.

    Args:
      model: trained, with weights under `Held` in layers `nnx.Linear`, `nnx.LinearGeneral`
        (attention has these) or `nnx.Conv`; masked weights stay masked.
      batches: calibration data; each new shape is traced and compiled by itself. An operation of
        the model runs once on each, whatever the depth; layers that share weights, and the body
        of a scan, run once for each weight in them.
      density: fraction of the weights of each block, or group, to keep, in (0, 1]; or one for each
        weight by path, such as `owl` gives.
      scope: which weights compete: `Whole()`, all those of a block of inputs, or `Groups(m)`.
      forward: runs the model on a batch, in eval mode; by default `model(batch)`.
      together: a regular expression for the beginning of a path. Weights in which it matches the
        same text are calibrated before any of them is pruned: "blocks/[0-9]+" a block at a time, in
        two runs, as the authors do; "" all weights on the dense model. By default each by itself.
      block: number of inputs whose weights compete and are updated together.
      damping: added to the diagonal of H, as a fraction of its mean.

    Returns:
      The model with new weights and stored masks. Masked weights keep their values.

    Raises:
      ValueError: density, block or damping out of range; another scope; a group size that does not
        divide the block or the inputs; a weight of another kind of layer, or of a layer that is
        not called; no batches; inputs that are not finite, or too similar for this damping; an
        expression that is invalid or matches no path.

    Example:
      >>> import jax.numpy as jnp, jsparse
      >>> from flax import nnx
      >>> model = jsparse.sparsify(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), ("kernel", jsparse.Held()))
      >>> model.kernel[...] = jnp.array([[1.0], [3.0]])
      >>> x = jnp.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
      >>> small = sparsegpt(model, [x], density=0.5, damping=0.0)
      >>> [round(float(w), 2) for w in small.kernel[...].ravel()]  # least squares: 3 + 2 / 3
      [0.0, 3.67]

    Reference: Frantar and Alistarh, SparseGPT: massive language models can be accurately pruned in
    one-shot, ICML 2023, algorithm 1 and section 3.4.
    """
    check_in("[0, inf)", damping=damping)
    check_whole(block=block)
    if not isinstance(scope, Whole | Groups):
        raise ValueError(f"sparsegpt got scope {shown(scope)}; use Whole(), or Groups(m) for N:M")
    group = scope.size if isinstance(scope, Groups) else block
    if block < 1 or block % group:
        raise ValueError(f"block got {block}; pass 1 or more, a multiple of the group size {group}")

    densities = densities_of(model, density)

    def prune(path: str, part: Sparse, seen: Array) -> tuple[Array, Array]:
        weight, mask = part.weight[...], part.mask[...]
        axes = part.rule.role.input_axes(weight.ndim)
        if isinstance(scope, Groups) and weight.shape[axes[-1]] % group:
            raise ValueError(
                f"axis {axes[-1]} of a weight {weight.shape} has length {weight.shape[axes[-1]]}, "
                f"not a multiple of {group}; exclude it from the pattern or choose another group"
            )
        size = min(block, inputs_of(part))
        together = (0,) if isinstance(scope, Groups) else (0, 1)
        solve = lambda w, m, h: _solve(
            w, m, h, densities[path], damping, size, min(group, size), together
        )
        stack = part.rule.role.stack
        split = lambda array: matrices(part, array, seen.shape[stack])
        read = masked(weight, mask)  # or outputs would be restored that the model does not have
        wide = split(read).astype(seen.dtype)
        new, kept = over_stack(solve, stack + 1)(wide, split(mask), seen)
        if not bool(all_finite(new)):
            raise ValueError(
                f"H of a weight {weight.shape} cannot be inverted: its inputs are too similar; "
                f"raise damping, now {damping}, or use more calibration data"
            )
        kept = from_matrices(part, kept)
        new = jnp.where(kept > 0, from_matrices(part, new).astype(weight.dtype), weight)
        return new, kept

    return prune_in_order(model, batches, forward, gram, prune, together)


@partial(jax.jit, static_argnames=("block", "group", "together"))
@jax.default_matmul_precision("highest")
def _solve(
    weight: Array,
    mask: Array,
    gram: Array,
    density: Array,
    damping: Array,
    block: int,
    group: int,
    together: tuple[int, ...],
) -> tuple[Array, Array]:
    """One layer: [inputs, outputs] twice, [inputs, inputs] -> new weight and mask.

    The list of arguments is long because a compiled function needs all of them.
    """
    dead = jnp.diagonal(gram) == 0
    weight = jnp.where(dead[:, None], 0.0, weight)
    upper = _factor(gram + jnp.diag(dead.astype(gram.dtype)), damping)
    kept = []
    for start in range(0, len(weight), block):
        stop = min(start + block, len(weight))
        here = slice(start, stop)
        new, chosen, error = _block(
            weight[here], mask[here], upper[here, here], density, min(group, stop - start), together
        )
        later = weight[stop:] - upper[here, stop:].T @ error  # (5)
        weight = jnp.concatenate([weight[:start], new, later])
        kept.append(chosen)
    return weight, jnp.concatenate(kept)


def _factor(hessian: Array, damping: Array) -> Array:
    """U of step 2, [inputs, inputs].

    With the order of the inputs reversed H = L L^T, so U is the inverse of L in the old order: one
    factorization, and closer to float64 than a factor of the inverse.
    """
    eye = jnp.eye(len(hessian), dtype=hessian.dtype)
    damped = hessian + damping * jnp.diagonal(hessian).mean() * eye
    lower = jnp.linalg.cholesky(damped[::-1, ::-1])
    return jax.scipy.linalg.solve_triangular(lower, eye, lower=True)[::-1, ::-1]


def _block(
    weight: Array,
    mask: Array,
    upper: Array,
    density: Array,
    group: int,
    together: tuple[int, ...],
) -> tuple[Array, Array, Array]:
    """New weight, mask and error e of a block of inputs (3, 4); all [block, outputs]."""
    scale = jnp.diagonal(upper)[:, None]

    def one(i: Array, state: tuple) -> tuple:
        weight, kept, error = state
        stays = weight[i] * kept[i]
        e = (weight[i] - stays) / scale[i]
        weight = (weight - upper[i][:, None] * e[None]).at[i].set(stays)
        return weight, kept, error.at[i].set(e)

    def some(g: Array, state: tuple) -> tuple:
        weight, kept, error = state
        rows = lambda x: lax.dynamic_slice_in_dim(x, g * group, group)
        score = jnp.where(rows(mask) > 0, (rows(weight) / rows(scale)) ** 2, -jnp.inf)
        chosen = rows(mask) * top(score, density, together).astype(mask.dtype)
        kept = lax.dynamic_update_slice_in_dim(kept, chosen, g * group, 0)
        return lax.fori_loop(g * group, (g + 1) * group, one, (weight, kept, error))

    start = (weight, jnp.zeros_like(mask), jnp.zeros_like(weight))
    return lax.fori_loop(0, len(weight) // group, some, start)
