"""A wall that only the expert knows, learned from its episodes: inverse constraints on MuJoCo.

Claim (the paper's): ICRL recovers the return of an expert that keeps away from a wall, in a world
    that does not enforce it.

Paper: Malik, Anwar, Aghasi and Ahmed, Inverse constrained reinforcement learning, ICML 2021, arXiv
    2011.09999. Published, read off a figure, after 4 million steps: expert 3,800, ICRL 3,400, its
    baselines 3,100 and 1,500, nominal 50. `inverse_constraints` has the baselines and sparse
    policies, on a ring.

Number (one seed, --expert 500000 --steps 400000): expert 700, ICRL 515 after 427,200 steps, which
    is far from converged: 31 % of its steps are beyond the wall. The default was not run.

Command: python -m experiments.cheetah_wall            (one seed, hours)
         python -m experiments.cheetah_wall --quick    (about 60,000 steps: shows that it runs)

Needs the extra `rl`.
"""

import dataclasses
from functools import partial

import jax
import numpy as np

from experiments import common
from experiments.rl import cheetah, inverse

PUBLISHED = {"expert": 3800, "ICRL": 3400}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(cheetah.Wall, common.RunSettings):
    """One seed of ICRL."""

    passes: int = 10
    """Steps of Adam of an update of zeta."""
    rate: float = 0.01
    """Their learning rate."""
    delta: float = 0.5
    """Weight of the regularizer, by which little is forbidden."""
    quick: bool = False
    """Few steps."""

    def __post_init__(self) -> None:
        self.check_positive("expert", "steps", "often", "copies", "length", "passes")


QUICK = Settings(expert=30_000, steps=28_000, quick=True)


def main(settings: Settings) -> None:
    """Train what is not trained yet; print the table and draw the picture."""
    settings, out = settings.in_folder(f"runs/cheetah_wall{'/quick' * settings.quick}")
    run = common.open_run(out, settings)
    if not run.complete:
        steps = (
            f"{settings.expert:,} steps of the expert, {settings.rounds * settings.each:,} of ICRL"
        )
        common.header(out, "HalfCheetah with a wall", 1, steps)
        objective = partial(inverse.loss, delta=settings.delta)
        update = partial(inverse.improved, objective, rate=settings.rate, passes=settings.passes)
        run.finish(**cheetah.constrained(run, settings, 1, jax.jit(update)))
    found, rows = run.final(), run.rows()
    returns = {"expert": found["expert"], "ICRL": rows[-1]["reward"]}
    lines = [[name, f"{np.mean(one):.0f}", PUBLISHED[name]] for name, one in returns.items()]
    first, last = (rows[n]["violations"] for n in (0, -1))
    text = (
        f"\nReturn in the true world, one seed: expert after {settings.expert:,} steps, ICRL after "
        f"{settings.rounds * settings.each:,}; published after 4,000,000\n\n"
        f"{common.table(['', 'return', 'published'], lines)}\n\n"
        f"Beyond the wall: {first:.3f} of the steps at first, {last:.3f} at the end"
    )
    print(text)
    cheetah.draw(*map(np.array, found["zeta"]), out / "constraint.png")
    print(f"\npage: {common.show_page(out, text)}")


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
