"""Agents that learn a sparse reward with simpler tasks: scheduled auxiliary control (SAC-X).

Claim (the paper's): with auxiliary tasks, a policy for each and a scheduler that picks which one
    acts, an agent learns a reward that it never finds without them. Tested here on a car too weak
    for its hill, which is rewarded only at the goal: picked uniformly (SAC-U) and by a learned
    table (SAC-Q), against the same agent without auxiliary tasks and one paid the sum of all
    rewards. Ours is one mask per intention, over shared weights.

Paper: Riedmiller et al., Learning by playing: solving sparse reward tasks from scratch, ICML 2018,
    arXiv 1802.10567. Its tasks are for robot arms, so none of its numbers is printed for
    comparison; the car, its auxiliary tasks and all settings are ours, and Retrace is the standard
    form.

What is judged: the sampled policy of the main task, over episodes of 400 steps, against the
    untrained network; an untrained greedy policy can get there by luck.

Number (5 seeds): the sampled main policy reaches the goal in 100 and 98 % of episodes after 960
    with SAC-U and SAC-Q (first at 90 %: 192 to 480 episodes), in 0 % after 1,920 without auxiliary
    tasks; paid the sum, at least 90 % after 96 in four seeds, and 0, 0, 100, 100 and 0 % after
    1,920. With one mask each, learning is faster than with one mask in all seeds: the mean over
    all times is higher by 0.01 to 0.15 at 80 % and by 0.07 to 0.29 at 95 %; together, though, these
    masks leave out only 39 and 78 % of all weights, where one mask leaves out 73 and 87 %.

Minutes of processor time, other work running: 1.3 for --quick, 23 for the default.

Retrace is compared with its sum, and with five steps by hand, in its tests.

Command: python -m experiments.scheduled_auxiliary            (five seeds)
         python -m experiments.scheduled_auxiliary --quick    (one seed, two arms)
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.rl import headline, sac_x
from experiments.rl.environments.mountain_car import TASKS
from experiments.rl.sac_x import Arm, SacX

ALL, MAIN = np.eye(len(TASKS)), np.eye(len(TASKS))[:1]
ARMS = {
    "SAC-U": Arm(ALL),
    "SAC-Q": Arm(ALL, rate=0.1),
    "no auxiliaries": Arm(MAIN),
    "summed reward": Arm(np.ones((1, len(TASKS)))),
    "SAC-U, one mask, 80 %": Arm(ALL, density=0.2),
    "SAC-U, a mask each, 80 %": Arm(ALL, density=0.2, own=True),
    "SAC-U, one mask, 95 %": Arm(ALL, density=0.05),
    "SAC-U, a mask each, 95 %": Arm(ALL, density=0.05, own=True),
}
SCHEDULED = ("SAC-U", "SAC-Q")
SPARSE = ("SAC-U", *list(ARMS)[4:])
"""Those of the table by sparsity."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(common.ArmSettings):
    """Arms, and of their agents."""

    arms: tuple[str, ...] = dataclasses.field(default=tuple(ARMS), metadata=common.FREE)
    episodes: int = 960
    """Of agents with auxiliary tasks; the others have twice as many."""
    marks: int = 10
    """Evaluations of an agent during learning."""
    judged: int = 100
    """Episodes each time."""
    sac: SacX = dataclasses.field(default_factory=SacX)
    """Of the algorithm."""

    def __post_init__(self) -> None:
        self.check_positive("seeds", "episodes", "marks", "judged")
        self.check_arms(ARMS)
        if self.episodes % (self.marks * sac_x.COPIES):
            raise ValueError(
                f"--episodes got {self.episodes}; give a multiple of {sac_x.COPIES} times --marks, "
                f"{sac_x.COPIES * self.marks}"
            )


QUICK = Settings(arms=("SAC-U", "no auxiliaries"), seeds=1, judged=50, quick=True)


def trained(run: common.Run, arm: str, settings: Settings) -> dict[str, Any]:
    """How an arm went: how often each seed reaches the goal, by episodes.

    A killed run resumes from its last evaluation.
    """
    longer = 1 if len(ARMS[arm].rewards) > 1 else 2
    marks, rounds = longer * settings.marks, settings.episodes // settings.marks // sac_x.COPIES
    trainer = sac_x.Trainer(settings.sac, ARMS[arm], marks * rounds)
    seeds = range(1, settings.seeds + 1)
    done, learner = run.load(trainer.begin(seeds))
    if not run.rows():
        run.log(0, success=trainer.judge(learner, episodes=settings.judged), picked=[])
    common.header(run.folder, f"agents, {arm}", settings.seeds, f"marks {done + 1} to {marks}")
    progress = common.Epochs(done, marks, arm, "mark")
    for mark in progress:
        learner, picked = trainer.learn(learner, rounds=rounds)
        success = trainer.judge(learner, episodes=settings.judged)
        run.log(mark, success=success, picked=picked)
        run.save(mark, learner)
        progress.show(success=np.mean(success))
    rows, kept = run.rows(), [trainer.kept(seed) for seed in seeds]
    return {"episodes": [row["step"] * rounds * sac_x.COPIES for row in rows],
            "success": np.transpose([row["success"] for row in rows]).tolist(),
            "picked": rows[-1]["picked"], "read": [one for one, _ in kept],
            "kept": [every for _, every in kept]}  # fmt: skip


def acceptance(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The expectations and outcomes: met where four of five seeds agree."""
    lines = []
    for arm, row in rows.items():
        ends = np.array(row["success"])[:, -1]
        if arm in SCHEDULED:
            holds, claim = ends >= 0.9, "at least 90 %"
        elif arm == "no auxiliaries":
            holds, claim = ends <= 0.1, "at most 10 %"
        else:
            continue
        claim = f"{arm} reaches the goal {claim} after {row['episodes'][-1]} episodes"
        text = "by seed " + ", ".join(f"{one:.0%}" for one in ends)
        lines.append(headline.verdict(claim, list(holds), text, least=0.8))
    for percent in ("80 %", "95 %"):
        arms = [f"SAC-U, {masks}, {percent}" for masks in ("a mask each", "one mask")]
        if set(arms) <= set(rows):
            own, shared = (np.mean(rows[arm]["success"], axis=1) for arm in arms)
            text = "differences of the mean over all times " + ", ".join(
                f"{one:+.2f}" for one in own - shared
            )
            claim = f"{percent}: a mask each learns sooner than one mask"
            lines.append(headline.verdict(claim, list(own > shared), text, least=0.8))
    return lines


def show(rows: dict[str, dict[str, Any]], out: Path) -> None:
    """Tables, verdicts and a picture."""
    lines = []
    for arm, row in rows.items():
        success = np.array(row["success"])
        times = row["episodes"]
        first = [
            str(times[(own >= 0.9).argmax()]) if max(own) >= 0.9 else "never" for own in success
        ]
        sides = [common.percent(success[:, n].tolist()) for n in (0, -1)]
        read = f"{np.mean(row['read']):.0%}, {np.mean(row['kept']):.0%}"
        lines.append([arm, read, times[-1], *sides, ", ".join(first)])
    print("\nHow often the main policy, sampled, reaches the goal, in percent:\n")
    head = [
        "",
        "weights read by one, by any",
        "episodes",
        "untrained",
        "trained",
        "episodes to 90 %, by seed",
    ]
    print(common.table(head, lines))
    lines = [
        [arm, *(common.mean_std(own) for own in np.array(rows[arm]["picked"]).T)]
        for arm in SCHEDULED if arm in rows
    ]  # fmt: skip
    if lines:
        print("\nShare of the choices that each intention has in the last round:\n")
        print(common.table(["", *TASKS], lines))
    print("\n" + "\n".join(acceptance(rows)))
    table = {
        arm: headline.Arm(rows[arm]["kept"], [own[-1] for own in rows[arm]["success"]])
        for arm in SPARSE if arm in rows
    }  # fmt: skip
    if table:
        print(f"\n{headline.by_sparsity('success', table)}")
    curve = lambda row: (row["episodes"], np.array(row["success"]).T)
    panels = {
        "schedulers": {arm: curve(row) for arm, row in rows.items() if arm not in SPARSE[1:]},
        "sparse": {arm: curve(row) for arm, row in rows.items() if arm in SPARSE},
    }
    path = out / "success.png"
    common.draw({k: v for k, v in panels.items() if v}, path, "episodes", "success")
    common.show_pages(common.logged(out), out, path)


def main(settings: Settings) -> None:
    """Train what is not trained yet; print the tables and draw the picture."""
    settings, out = settings.in_folder(f"runs/scheduled_auxiliary{'/quick' * settings.quick}")
    rows = {}
    for arm in settings.arms:
        run = common.open_run(out / arm.replace(" %", ""), settings, trained=arm)
        if not run.complete:
            run.finish(**trained(run, arm, settings))
        rows[arm] = run.final()
    show(rows, out)


if __name__ == "__main__":
    common.start(main, Settings, __doc__, QUICK)
