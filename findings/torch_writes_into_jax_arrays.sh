#!/usr/bin/env bash
# An optimizer of PyTorch changes JAX's arrays in place after torch.from_dlpack, which neither of the two forbids.
#
# Guess: JAX arrays cannot be changed: NumPy gets a view that it may only read, whether by np.asarray or DLPack, and
#   DLPack has a flag for read-only memory, so torch.from_dlpack copies, warns or refuses.
# Versions: jax 0.10.2, jaxlib 0.10.2, torch 2.13.0, numpy 2.4.6, on a CPU.
# What happens: the tensor shares the memory and may be written. A step of SGD, a mask applied by mul_, or
#   clipping changes the JAX array, and a tree kept from before holds the same array, so "before" equals "after".
#   What jit has taken into a program as a constant stays as it was.
#   The other way the same: jnp.from_dlpack(tensor) changes with the tensor. jnp.asarray(tensor) copies.
# Who is hurt: whoever trains or prunes in one library what the other one made, and compares: a sparse fine-tuning in
#   PyTorch of weights held in JAX shows no difference from its own start.
# Remedy: torch.from_dlpack(x).clone(); jnp.from_dlpack(tensor.clone()).
#
# Output seen:
#   np.from_dlpack(w) may be written: False
#   w before                          [0.0, 1.0, 2.0, 3.0]
#   w after a step of torch's SGD     [-1.0, 0.0, 1.0, 2.0]
#   w after torch's mask              [-0.0, 0.0, 1.0, 2.0]
#   the tree kept from before         [-0.0, 0.0, 1.0, 2.0]
#   a jitted function that closed on w returns [0.0, 1.0, 2.0, 3.0]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/pip" install --quiet --retries 0 --find-links https://download.pytorch.org/whl/cpu/torch/ \
    torch==2.13.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W error - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import torch

w = jnp.arange(4.0)
before = w.tolist()
kept = jax.tree.map(lambda leaf: leaf, {"w": w})
closed = jax.jit(lambda: w + 0)
closed()
writeable = np.from_dlpack(w).flags.writeable


def show(name, values):
    print(f"{name:<33} {values}")


print(f"np.from_dlpack(w) may be written: {writeable}")
show("w before", before)

tensor = torch.nn.Parameter(torch.from_dlpack(w))
optimizer = torch.optim.SGD([tensor], lr=1.0)
tensor.sum().backward()
optimizer.step()
trained = w.tolist()
show("w after a step of torch's SGD", trained)
with torch.no_grad():
    tensor.mul_(torch.tensor([0.0, 1.0, 1.0, 1.0]))
masked = w.tolist()
show("w after torch's mask", masked)
show("the tree kept from before", kept["w"].tolist())
print(f"a jitted function that closed on w returns {closed().tolist()}")
assert not writeable
assert trained == [number - 1 for number in before], "the array is protected now"
assert masked == kept["w"].tolist() and masked[0] == 0
clone = torch.from_dlpack(w).clone()
clone.zero_()
assert w.tolist() == masked
back = torch.ones(4)
shared, copied = jnp.from_dlpack(back), jnp.asarray(back)
back.zero_()
assert shared.tolist() == [0.0] * 4 and copied.tolist() == [1.0] * 4
PYTHON
