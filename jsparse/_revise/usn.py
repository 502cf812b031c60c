"""Uniform sparse networks: a fixed random wiring that is as even as possible.

For n inputs and m outputs, with K = round(density n m) links:

1. Each unit of the larger side has K / max(n, m) links, rounded down or up.
2. The units of the larger side are divided into square blocks, each with as many units as the
   smaller side. In a block, every unit links to the same random set of positions, relative to a
   position of its own, so each unit of the smaller side also has that many links. The order of
   positions is random and differs between blocks.
3. Leftover units, and the links left over from rounding, are dealt out to the units of the smaller
   side in turn: on either side, the numbers of links differ by at most one.
4. The wiring is drawn once and never changed.

(In the authors' generator the set in 2 is one run of adjacent positions, and in 3 the numbers on
the smaller side may differ by more. They draw the weights from a much smaller range than usual; to
preserve the scale of the signals, divide the weights of a dense layer by the square root of the
density.)

Numbers: no figure of the paper is reproduced here yet.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jsparse._checks import check_density
from jsparse._pattern import Role
from jsparse._revise.revision import only_kept
from jsparse._topk import highest
from jsparse._values import by_density, check_is, check_key, check_shape


@by_density
@dataclass(frozen=True, kw_only=True)
class USN:
    """Draw an even wiring at the first step, which does not train.

    To have the wiring from the start, without a revision, use
    `jsparse.hold(model, {path: USN(density=0.3).links(mask.shape, key)})`.

    Args:
      density: fraction of the weights kept in each layer, in (0, 1].
      role: the meaning of the weight's axes; see `roles` of `revise`. All axes other than
        outputs count as inputs.

    Example:
      >>> import jax
      >>> links = USN(density=0.5).links((4, 6), jax.random.key(0))
      >>> links.sum(0).tolist(), links.sum(1).tolist()
      ([2.0, 2.0, 2.0, 2.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0])

    Reference: Luo, Improving neural network with uniform sparse connectivity, IEEE Access 2020.
    """

    density: float
    role: Role = Role()
    pauses: ClassVar[bool] = True
    clears: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_density(self.density)
        check_is(Role, "a Role, such as Role()", role=self.role)

    def due(self, step: Array) -> Array:
        """4. At the first step."""
        return step == 1

    trained = only_kept

    def __call__(
        self, mask: Array, weight: Array, gradient: Array, *, step: Array, key: Array
    ) -> Array:
        """[...], the wiring."""
        wiring = self.links(mask.shape, key).astype(mask.dtype)
        return wiring + jnp.zeros_like(mask)  # sharded like the mask

    def links(self, shape: tuple[int, ...], key: Array) -> Array:
        """A wiring: float32, [shape], 0 or 1."""
        shape = check_shape("shape", shape)
        check_key(key=key)
        outputs = self.role.output_axes(len(shape))
        inputs = tuple(a for a in range(len(shape)) if a not in outputs)
        size = lambda axes: math.prod(shape[a] for a in axes)
        n, m = size(inputs), size(outputs)
        total = max(1, round(self.density * n * m))
        table = _even(key, n, m, total) if n >= m else _even(key, m, n, total).T
        order = (*inputs, *outputs)
        apart = table.reshape([shape[a] for a in order])
        return apart.transpose([order.index(a) for a in range(len(shape))]).astype(jnp.float32)


def _even(key: Array, larger: int, smaller: int, total: int) -> Array:
    """bool [larger, smaller], with `total` entries True, spread evenly along both axes."""
    keys = jax.random.split(key, 3)
    each, over = divmod(total, larger)
    blocks, rest = divmod(larger, smaller)
    spare = min(over, blocks * smaller)  # leftover links in the square blocks
    placed = rest * each + over - spare  # links of the leftover units
    turn = jax.random.permutation(keys[0], smaller)  # 3. the order of the units

    def square(key: Array, block: Array) -> Array:
        first, second = jax.random.split(key)
        place, draw = jax.random.permutation(first, smaller), jax.random.uniform(second, (smaller,))
        away = (place[None] - jnp.arange(smaller)[:, None]) % smaller  # 2. relative positions
        chosen = highest(draw, jnp.asarray(each), (0,))
        one_more = highest(draw, jnp.asarray(min(each + 1, smaller)), (0,))
        late = block * smaller + (turn - placed) % smaller >= spare
        return jnp.where(late[None], chosen[away], one_more[away])

    squares = jax.vmap(square)(jax.random.split(keys[1], blocks), jnp.arange(blocks))
    begin, end = (jnp.arange(rest) + n for n in (0, 1))
    begin, end = (n * placed // max(rest, 1) for n in (begin, end))
    runs = (turn[None] - begin[:, None]) % smaller < (end - begin)[:, None]
    table = jnp.concatenate([squares.reshape(blocks * smaller, smaller), runs])
    return table[jax.random.permutation(keys[2], larger)]
