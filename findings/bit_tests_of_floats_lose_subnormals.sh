#!/usr/bin/env bash
# On the CPU, a test of a float's bits by integers says that subnormal numbers are 0, if isnan stands beside it.
#
# Guess: lax.bitcast_convert_type and integer operations see bits as they are, whatever the processor does with
#   subnormal floats; and jit changes how fast a comparison is, not its result.
# Versions: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on an x86 CPU. jax 0.7.2 and 0.12.0.1 do the same.
# What happens: `(bits << 1 == 0) | isnan(x)` is True under jit for 1e-40, whose bits are 71362. Each half alone is
#   False under jit, and so is the whole without jit, where each operation is a program of its own. The compiler
#   makes one comparison of the float with 0 of both together, and programs of XLA run with subnormal numbers read
#   as 0. It takes --xla_backend_optimization_level=0 and --xla_cpu_use_fusion_emitters=false together to prevent
#   it. `x != x` in place of isnan does the same; the test for NaN written with integers does not.
# Who is hurt: sort keys made of a float's bits (a radix sort, a top-k by counting, a hash), whose usual first lines
#   are these two tests: -0 to +0, and a place for NaN. All numbers below 1.2e-38 become ties there: weights that
#   decay has nearly taken away, probabilities far out.
# Remedy: test for NaN by integers too: (bits << 1) > 0xFF000000.
#
# Output seen:
#   x                            [1e-40, 2e-40]
#   zero bits                    jit [False, False]   eager [False, False]
#   isnan                        jit [False, False]   eager [False, False]
#   zero bits or isnan           jit [True, True]     eager [False, False]
#   zero bits or NaN by integers jit [False, False]   eager [False, False]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W error - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

x = jnp.asarray(np.array([1e-40, 2e-40], np.float32))
size = lambda x: lax.bitcast_convert_type(x, jnp.uint32) << 1
zero = lambda x: size(x) == 0
not_a_number = lambda x: size(x) > jnp.uint32(0xFF000000)


def show(name, test, expected):
    compiled, eager = jax.jit(test)(x).tolist(), test(x).tolist()
    print(f"{name:28} jit {str(compiled):16} eager {eager}")
    assert compiled == [expected] * 2, "it is another result now"
    assert eager == [False] * 2


print(f"{'x':28} [1e-40, 2e-40]")
show("zero bits", zero, expected=False)
show("isnan", jnp.isnan, expected=False)
show("zero bits or isnan", lambda x: zero(x) | jnp.isnan(x), expected=True)
show("zero bits or NaN by integers", lambda x: zero(x) | not_a_number(x), expected=False)
PYTHON
