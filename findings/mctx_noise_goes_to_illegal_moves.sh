#!/usr/bin/env bash
# mctx.muzero_policy spreads its Dirichlet noise over illegal moves too, and then cuts that part off.
#
# Guess: with dirichlet_fraction=0.25 a quarter of the prior at the root is noise, as in AlphaZero, whose
#   noise is over the legal moves; `invalid_actions` says which these are.
# Versions: mctx 0.0.71, jax 0.10.2, jaxlib 0.10.2, chex 0.1.92.
# What happens: the noise is drawn over all actions and mixed in first; `invalid_actions` is applied to
#   the sum, which is then scaled to 1 again. With 3 legal moves of 362 only about 3/362 of the noise is
#   left: a quarter becomes 0.3 %, and an unlikely move is nearly never tried. Nothing is reported.
# Who is hurt: self-play with muzero_policy where few of many actions are legal (Go endgames, chess, late
#   positions of any board game): it explores early moves and hardly the late ones.
# Remedy: mix noise over the legal moves into root.prior_logits, and pass dirichlet_fraction=0.0; or
#   gumbel_muzero_policy, whose noise is for each action by itself.
#
# Output seen (prior 0.98, 0.01, 0.01; 4,000 games, how often the third move has more than 0.05):
#   3 legal of 3: mean of the third 0.091, above 0.05 in 52%
#   3 legal of 25: mean of the third 0.023, above 0.05 in 10%
#   3 legal of 362: mean of the third 0.011, above 0.05 in 0%

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mctx==0.0.71 jax==0.10.2 jaxlib==0.10.2 chex==0.1.92 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import mctx

GAMES, PRIOR = 4000, jnp.array([0.98, 0.01, 0.01])


def model(params, key, action, state):
    zero = jnp.zeros(GAMES)
    logits = jnp.zeros((GAMES, state.shape[1]))
    return mctx.RecurrentFnOutput(reward=zero, discount=-1 + zero, prior_logits=logits, value=zero), state


found = {}
for actions in (3, 25, 362):
    logits = jnp.full(actions, -1e9).at[:3].set(jnp.log(PRIOR))
    batch = lambda x: jnp.broadcast_to(x, (GAMES, actions))
    root = mctx.RootFnOutput(
        prior_logits=batch(logits), value=jnp.zeros(GAMES), embedding=jnp.zeros((GAMES, actions))
    )
    output = mctx.muzero_policy(
        params=(), rng_key=jax.random.key(0), root=root, recurrent_fn=model, num_simulations=1,
        invalid_actions=batch(jnp.arange(actions) >= 3), dirichlet_fraction=0.25, dirichlet_alpha=0.3,
    )
    third = jax.nn.softmax(output.search_tree.children_prior_logits[:, 0])[:, 2]
    found[actions] = float(third.mean()), float((third > 0.05).mean())
    mean, often = found[actions]
    print(f"3 legal of {actions}: mean of the third {mean:.3f}, above 0.05 in {often:.0%}")

assert abs(found[3][0] - (0.75 * 0.01 + 0.25 / 3)) < 0.01, "the mean that AlphaZero's noise has"
assert found[362][0] < 0.02 and found[362][1] < 0.05, "noise now stays with the legal moves"
PYTHON
