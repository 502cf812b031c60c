#!/usr/bin/env bash
# mctx.gumbel_muzero_policy prefers a move that is better by 1e-6 as much as one that wins the game.
#
# Guess: the policy that it returns for training, softmax(logits + sigma(q)) with sigma(q) = (50 + visits)
#   * 0.1 * q, as in the paper, follows how much better a move is: where all moves are worth about the
#   same, it stays near the network's own policy.
# Versions: mctx 0.0.71, jax 0.10.2, jaxlib 0.10.2, chex 0.1.92.
# What happens: by default (`rescale_values=True` of qtransform_completed_by_mix_value) the values at a
#   node are stretched to [0, 1] first, whatever they span: two moves worth 0 and 1e-6 get the same weights
#   as two worth 0 and 1. Only a span below 1e-8 is left alone.
# Who is hurt: games with outcomes -1, 0, 1. In decided or level positions the target is rounding noise of
#   the value network, as sharp as a real difference (e^5 to 1), and the policy is trained on it; the
#   search chooses by it, too.
# Remedy: where values have a known range, qtransform=functools.partial(
#   mctx.qtransform_completed_by_mix_value, rescale_values=False), with value_scale to suit the range.
#
# Output seen (weights of the worse and the better move):
#   default, better by 1: [0.006 0.994]
#   default, better by 0.01: [0.006 0.994]
#   default, better by 1e-06: [0.006 0.994]
#   rescale_values=False, better by 1: [0.006 0.994]
#   rescale_values=False, better by 0.01: [0.487 0.513]
#   rescale_values=False, better by 1e-06: [0.5 0.5]

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mctx==0.0.71 jax==0.10.2 jaxlib==0.10.2 chex==0.1.92 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import functools

import jax
import jax.numpy as jnp
import mctx
import numpy as np

plain = functools.partial(mctx.qtransform_completed_by_mix_value, rescale_values=False)
found = {}
for name, qtransform in (
    ("default", mctx.qtransform_completed_by_mix_value), ("rescale_values=False", plain)
):
    for better in (1.0, 0.01, 1e-6):

        def model(params, key, action, state):
            value = -better * (action == 1).astype(jnp.float32)  # for the other player
            output = mctx.RecurrentFnOutput(
                reward=jnp.zeros(1), discount=-jnp.ones(1), prior_logits=jnp.zeros((1, 2)), value=value
            )
            return output, state

        root = mctx.RootFnOutput(
            prior_logits=jnp.zeros((1, 2)), value=jnp.zeros(1), embedding=jnp.zeros(1)
        )
        output = mctx.gumbel_muzero_policy(
            params=(), rng_key=jax.random.key(0), root=root, recurrent_fn=model, num_simulations=2,
            gumbel_scale=0.0, qtransform=qtransform,
        )
        weights = np.asarray(output.action_weights[0])
        assert output.search_tree.summary().visit_counts.tolist() == [[1, 1]]
        found[name, better] = weights
        print(f"{name}, better by {better:g}:", weights.round(3))

wins = found["default", 1.0]
for (name, better), weights in found.items():
    same = np.allclose(weights, wins, atol=1e-4)
    assert same == (name == "default" or better == 1), f"{name}, {better} is no longer as it was"
PYTHON
