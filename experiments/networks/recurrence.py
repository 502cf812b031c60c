"""The LSTM over time, with the gradient of its recurrent kernel as one matrix product.

Autodiff of a `lax.scan` adds up that gradient step by step, a small product each; here the backward
loop keeps the gates' gradients and multiplies once.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax


def run_lstm(cell: nnx.OptimizedLSTMCell, x: Array) -> Array:
    """Hidden states of a plain cell over time, from zero: x [batch, time, in] -> [time, batch, h].

    The kernels are read once, so a sparse cell is masked once per pass.
    """
    inputs = cell.dense_i(x.swapaxes(0, 1)) + cell.dense_h.bias[...][None, None]
    return recurrence(inputs, cell.dense_h.kernel[...])


@jax.custom_vjp
def recurrence(inputs: Array, kernel: Array) -> Array:
    """Hidden states from the inputs' contribution to the gates.

    Args:
      inputs: [time, batch, 4 h], projected inputs and biases of the gates i, f, g, o.
      kernel: [h, 4 h], recurrent.

    Returns:
      [time, batch, h].
    """
    return _forward(inputs, kernel)[0]


def _forward(inputs: Array, kernel: Array) -> tuple[Array, tuple]:
    start = jnp.zeros((inputs.shape[1], kernel.shape[0]), inputs.dtype)

    def step(carry: tuple, z: Array) -> tuple[tuple, tuple]:
        h, c = carry
        i, f, g, o = jnp.split(z + h @ kernel, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        new = f * c + i * g
        h = o * jnp.tanh(new)
        return (h, new), (h, c, i, f, g, o, new)

    _, (hidden, *saved) = lax.scan(step, (start, start), inputs)
    return hidden, (hidden, saved, kernel)


def _backward(residuals: tuple, d_hidden: Array) -> tuple[Array, Array]:
    hidden, saved, kernel = residuals

    def step(carry: tuple, at: tuple) -> tuple[tuple, Array]:
        dh, dc = carry
        d_out, c, i, f, g, o, new = at
        dh = dh + d_out
        t = jnp.tanh(new)
        dc = dc + dh * o * (1 - t * t)
        dz = jnp.concatenate(
            [
                dc * g * i * (1 - i),
                dc * c * f * (1 - f),
                dc * i * (1 - g * g),
                dh * t * o * (1 - o),
            ],
            axis=-1,
        )
        return (dz @ kernel.T, dc * f), dz

    zero = jnp.zeros_like(hidden[0])
    _, dz = lax.scan(step, (zero, zero), (d_hidden, *saved), reverse=True)
    size, gates = kernel.shape
    d_kernel = hidden[:-1].reshape(-1, size).T @ dz[1:].reshape(-1, gates)
    return dz, d_kernel


recurrence.defvjp(_forward, _backward)
