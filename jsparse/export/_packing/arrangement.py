"""Which layers are packed: judged by calls of the whole model, not by those of each layer.

A convolution alone pays for transposing its images and back, which its neighbors may spare it; and
a dense layer alone is not fused with the operations around it.
"""

from collections.abc import Callable, Mapping

TRIES = 4
"""Layers that are changed one at a time, to see whether the whole model gets faster."""
FASTER = 1.02
"""How many times as fast another arrangement must be to count as faster."""

Arrangement = Mapping[str, str]
"""The format of each layer that is packed, by path; the others are dense."""


def fastest_arrangement(
    gains: Mapping[str, float],
    formats: Arrangement,
    asked: float,
    seconds: Callable[[Arrangement, Arrangement], tuple[float, float]],
) -> Arrangement:
    """The fastest of a few arrangements.

    All layers packed, against only those that gain alone; then, from the faster of the two, one
    layer at a time is switched, first those that lose most, or gain least, in their current form.

    Args:
      gains: how many times as fast as dense each layer alone is in its best format, by path.
      formats: those formats.
      asked: the gain required to pack a layer by itself.
      seconds: that a call of the whole model takes in each of two arrangements.

    Example:
      >>> cost = lambda stored: 1.0 + 3 * (len(stored) == 1) - 0.1 * len(stored)
      >>> gains, formats = {"a": 2.0, "b": 0.6}, {"a": "csr", "b": "csr"}
      >>> fastest_arrangement(gains, formats, 1.1, lambda *two: tuple(map(cost, two)))
      {'a': 'csr', 'b': 'csr'}
    """

    def faster(new: Arrangement, old: Arrangement) -> bool:
        took, before = seconds(new, old)
        return took * FASTER <= before

    alone = {path: name for path, name in formats.items() if gains[path] >= asked}
    contested = [path for path in formats if path not in alone]
    if not contested:
        return formats
    best = formats if faster(formats, alone) else alone
    if len(contested) == 1:  # the same two again
        return best
    contested.sort(key=lambda path: gains[path], reverse=best is alone)
    for path in contested[:TRIES]:
        changed = {one: name for one, name in formats.items() if (one in best) != (one == path)}
        if faster(changed, best):
            best = changed
    return best
