#!/usr/bin/env bash
# jax.device_put(a, may_alias=False) shares the memory of a NumPy array: writing into `a` changes the JAX array.
#
# Guess: a JAX array never changes. device_put copies to the device, and where it may keep the memory of the host,
#   may_alias=False forbids it: "If False, `x` will be copied".
# Versions: jax 0.10.2, jaxlib 0.10.2, numpy 2.4.6, on a CPU (the same on jax 0.12.0.1).
# What happens: on the CPU an array whose memory begins at a multiple of 64 bytes is taken over as it is, with
#   may_alias=False as without; others are copied. NumPy aligns to 16, so it depends on the allocation: of 200
#   arrays of one shape 7 to 100 were shared, and the same line is right in one run and wrong in the next.
#   For a JAX array may_alias=False does copy. jnp.array and jnp.asarray copy always.
# Who is hurt: buffers of the host that are filled again, batch after batch, and weights edited in place after they
#   went to a model: the model, or a batch that is still waiting, changes with them.
# Remedy: jax.device_put(a.copy()), or jnp.array(a) (which compiles for each new shape).
#
# Output seen (zeros, of which NumPy's are then overwritten by ones):
#                                      64-byte aligned  4 bytes further
#   device_put(a)                      1                0
#   device_put(a, may_alias=False)     1                0
#   device_put(a.copy())               0                0
#   jnp.asarray(a)                     0                0
#   jnp.array(a)                       0                0
#   device_put of a JAX array, may_alias=False, shares memory: False

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

ALIGNMENT, SIZE = 64, 1000


def zeros(offset):
    """A NumPy array that begins `offset` bytes after a multiple of 64."""
    room = np.zeros(4 * SIZE + 2 * ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT + offset
    return room[start : start + 4 * SIZE].view(np.float32)


def own(a):
    """A copy that is aligned no matter where NumPy would put it."""
    copy = zeros(0)
    copy[:] = a
    return copy


ways = {
    "device_put(a)": jax.device_put,
    "device_put(a, may_alias=False)": lambda a: jax.device_put(a, may_alias=False),
    "device_put(a.copy())": lambda a: jax.device_put(own(a)),
    "jnp.asarray(a)": jnp.asarray,
    "jnp.array(a)": jnp.array,
}
print(f"{'':<34} 64-byte aligned  4 bytes further")
found = {}
for name, way in ways.items():
    seen = []
    for offset in (0, 4):
        a = zeros(offset)
        x = jax.block_until_ready(way(a))
        a[:] = 1
        seen.append(int(x[0]))
    found[name] = seen
    print(f"{name:<34} {seen[0]:<16} {seen[1]}")
x = jnp.arange(1000.0)
shared = jax.device_put(x, may_alias=False).unsafe_buffer_pointer() == x.unsafe_buffer_pointer()
print(f"device_put of a JAX array, may_alias=False, shares memory: {shared}")
assert found.pop("device_put(a)") == [1, 0]
assert found.pop("device_put(a, may_alias=False)") == [1, 0], "may_alias=False copies now"
assert not shared and all(seen == [0, 0] for seen in found.values())
PYTHON
