#!/usr/bin/env bash
# XLA's cost analysis counts the body of a scan once: a network of 100 layers costs as many FLOPs as one of 1 layer.
#
# Guess: jit(f).lower(x).compile().cost_analysis()["flops"] is the number of operations of one call; the length of
#   a scan is known at compile time, and scanned or unrolled, the same products are taken.
# Versions: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on a CPU.
# What happens: a scan is a while loop to XLA, and the analysis visits its body once, before and after compiling, also
#   where the compiled program states the number of rounds (known_trip_count). The same holds for fori_loop and lax.map.
#   jax.vmap is counted in full.
# Who is hurt: tables of FLOPs of models that scan over layers, time steps or blocks, and ratios between a scanned dense
#   network and an unrolled sparse one, which come out wrong by the depth.
# Remedy: unroll for the analysis (scan(..., unroll=length) counts all), or count one step and multiply.
#
# Output seen (batch 8, 100 layers of 64 x 64):
#                  lowered    compiled   in layers of 65536
#   Python loop    6553600    6553600    100
#   scan           65538      65538      1
#   scan, unroll   6553600    6553600    100
#   fori_loop      65538      65538      1
#   lax.map        65538      65538      1
#   vmap           6553600    6553600    100
#   known_trip_count is 100 in the compiled scan: True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import re

import jax
import jax.numpy as jnp

layers, x, weight = 100, jnp.ones((8, 64)), jnp.ones((64, 64))


def loop(x, weight):
    for _ in range(layers):
        x = x @ weight
    return x


def scan(x, weight, unroll=1):
    return jax.lax.scan(lambda x, _: (x @ weight, None), x, None, length=layers, unroll=unroll)[0]


def copies(x):
    return jnp.stack([x] * layers)


functions = {
    "Python loop": loop,
    "scan": scan,
    "scan, unroll": lambda x, weight: scan(x, weight, layers),
    "fori_loop": lambda x, weight: jax.lax.fori_loop(0, layers, lambda _, x: x @ weight, x),
    "lax.map": lambda x, weight: jax.lax.map(lambda one: one @ weight, copies(x)),
    "vmap": lambda x, weight: jax.vmap(lambda one: one @ weight)(copies(x)),
}
one = 2 * x.shape[0] * weight.size
print(f"{'':<15}{'lowered':<11}{'compiled':<11}in layers of {one}")
found = {}
for name, function in functions.items():
    lowered = jax.jit(function).lower(x, weight)
    compiled = lowered.compile()
    flops = [int(stage.cost_analysis()["flops"]) for stage in (lowered, compiled)]
    found[name] = [round(count / one) for count in flops]
    print(f"{name:<15}{flops[0]:<11}{flops[1]:<11}{found[name][1]}")
    if name == "scan":
        known = bool(re.search(r'known_trip_count[^}]*"n":"100"', compiled.as_text()))
print("known_trip_count is 100 in the compiled scan:", known)

for name in ("Python loop", "scan, unroll", "vmap"):
    assert found[name] == [layers, layers], name
for name in ("scan", "fori_loop", "lax.map"):
    assert found[name] == [1, 1], f"{name} is counted in full now"
PYTHON
