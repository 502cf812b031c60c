#!/usr/bin/env bash
# In an array of JAX 41.0 / 41 is 0.99999994, so the block of entry 41 in blocks of 41 is 0.
#
# Guess: the quotient of two floats is the nearest float to the true one, as IEEE asks, and as in NumPy; so
#   where a number divides another without remainder, the quotient is exact and may be truncated to an index.
# Versions: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on a CPU.
# What happens: XLA rewrites the division of an array by one number as a product with the reciprocal (HandleDivide in
#   xla/hlo/transforms/simplifiers/algebraic_simplifier.cc; the compiled program has "multiply" and 0.024390243). It
#   does so with and without jax.jit, for floats and for integers divided by `/`, and for a divisor that is an argument
#   too. Of the numbers from 1 to 999, 135 do not give 1 when divided by themselves. A single number, or an
#   array of divisors, is divided exactly, so a test on one number shows nothing.
# Who is hurt: indices made of a quotient, (i / 41).astype(int): blocks and tiles, bins, epochs from steps, levels of a
#   quantizer by floor; the first entry of a block falls into the one before. Numbers at the edge differ from
#   those of NumPy, and of PyTorch on a CPU.
# Remedy: `//`, which is right for integers and floats; round in place of truncating where halves do not matter.
#
# Output seen (10,000 entries, their blocks by (i / size).astype(int)):
#   size  size / size   wrong blocks  first  NumPy  by //  array of divisors
#   7     1.0           0             -      0      0      0
#   41    0.99999994    94            41     0      0      0
#   55    0.99999994    19            55     0      0      0
#   61    0.99999994    148           61     0      0      0
#   97    0.99999994    8             97     0      0      0
#   sizes of 1 to 999 that are not 1 divided by themselves: 135, for one number alone: 0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

entries = np.arange(10_000)


@jax.jit
def blocks(i, size):
    return (i / size).astype(jnp.int32)


print("size  size / size   wrong blocks  first  NumPy  by //  array of divisors")
for size in (7, 41, 55, 61, 97):
    true = entries // size
    quotient = (jnp.arange(10_000) / size)[size]
    found = np.asarray(blocks(entries, size))
    assert np.array_equal(found, (jnp.arange(10_000) / size).astype(int)), "jit changes the result"
    wrong = np.flatnonzero(found != true)
    others = [
        int((other != true).sum())
        for other in (
            (entries.astype(np.float32) / np.float32(size)).astype(int),
            np.asarray(jnp.arange(10_000) // size),
            np.asarray(blocks(entries, np.full(10_000, size))),
        )
    ]
    first = wrong[0] if wrong.size else "-"
    print(f"{size:<6}{quotient!s:<14}{wrong.size:<14}{first!s:<7}" + f"{others[0]:<7}{others[1]:<7}{others[2]}")
    assert others == [0, 0, 0], f"size {size}: another way is wrong too"
    assert (wrong.size > 0) == (size != 7), f"size {size} is no longer as it was"
    assert size == 7 or (first == size and found[size] == 0)

sizes = np.arange(1, 1000, dtype=np.float32)
arrays = sum(int(((jnp.full(8, size) / size) != 1).all()) for size in sizes)
numbers = sum(int((jnp.float32(size) / size) != 1) for size in sizes)
print(f"sizes of 1 to 999 that are not 1 divided by themselves: {arrays}, for one number alone: {numbers}")
assert arrays == 135 and numbers == 0
program = jax.jit(lambda x: x / 41).lower(jnp.ones(8)).compile().as_text()
assert "multiply(" in program and "divide(" not in program, "XLA divides now"
PYTHON
