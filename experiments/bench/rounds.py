"""How candidates are timed: in turns, round after round, and compared within a round.

Each candidate runs for about 50 ms at a time, as whole steps, after a rest in which thread pools
stop spinning and one call that is not counted. The starting point moves on by one every round.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from experiments import common
from experiments.common.settings import environment
from jsparse import _timing

SAMPLE = 0.05
"""Seconds a sample fills."""
REST = 0.02
"""Seconds before each."""
ROOT = Path(__file__).parents[2]


class Here:
    """A function of this process from a state to the next one; the state is given up.

    Args:
      call: state -> (state, result).
      state: the first.
      steps: train steps a call.
    """

    whole = 1
    """Calls come in multiples of this."""

    def __init__(self, call: Callable[[Any], tuple[Any, Any]], state: Any, steps: int = 1):
        self.call, self.state, self.steps = call, state, steps

    def seconds(self, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            self.state, _ = jax.block_until_ready(self.call(self.state))
        return time.perf_counter() - start


class Process:
    """A program that answers each line that it is sent by one, and is idle in between.

    Args:
      command: what is run; the first line that it prints is `greeting`.
      folder: that it runs in.

    Raises:
      RuntimeError: the program ended.
    """

    def __init__(self, command: Sequence[str], folder: str | Path = ROOT):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, text=True)
        self.greeting = self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def ask(self, what: object) -> str:
        """The answer."""
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args)} ended; its error is above")
        return line.strip()


class There(Process):
    """A call that another process makes ready and times: see `experiments.bench.others`.

    Args:
      step: (folder, asked) -> the call; a function by which the other process is told its name.
      folder: what it reads.
      asked: the rest.
      whole: calls come in multiples of this.
      cores: that the process keeps to; all if 0.
      python: that runs it.
    """

    steps = 1

    def __init__(
        self,
        step: Callable[[str, str], Callable[[], Any]],
        folder: str,
        asked: str,
        whole: int = 1,
        cores: int = 0,
        python: str = sys.executable,
    ):
        self.whole = whole
        name = f"{step.__globals__['__spec__'].name}:{step.__name__}"  # not __main__:...
        command = [python, "-m", "experiments.bench.others", name, folder, asked]
        super().__init__(command + [str(cores)] * bool(cores))
        self.loss = float(self.greeting.removeprefix("ready "))

    def seconds(self, calls: int) -> float:
        return float(self.ask(calls))


def answer(command: Sequence[object]) -> str:
    """What a program prints.

    Raises:
      ChildProcessError: it failed.
    """
    words = [str(word) for word in command]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ChildProcessError(f"{' '.join(words)} failed:\n{ended.stderr[-2000:]}")
    return ended.stdout


def usable_cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def in_turns(candidates: Mapping[str, Here | There], rounds: int) -> dict[str, np.ndarray]:
    """Seconds a step of each candidate, [rounds]."""
    clocks = {
        name: lambda calls, one=one: one.seconds(calls * one.whole)
        for name, one in candidates.items()
    }
    taken = _timing.in_turns(clocks, rounds, sample=SAMPLE, rest=REST)
    return {name: taken[name] / (one.whole * one.steps) for name, one in candidates.items()}


def turns(samples: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """What each sample returns, such as its seconds: [rounds, ...] by name.

    They take turns, once more than that: the first round, in which they compile, is left out.
    """
    found: dict[str, list] = {name: [] for name in samples}
    for _ in range(rounds + 1):
        for name, sample in samples.items():
            found[name].append(sample())
    return {name: np.array(some[1:]) for name, some in found.items()}


def clocked(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What some work returns, its seconds, and those of all processors."""
    start, used = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(work())
    return result, time.perf_counter() - start, time.process_time() - used


def processor_ms(
    running: Mapping[str, tuple[Callable[[Any], Any], Any]], rounds: int
) -> dict[str, np.ndarray]:
    """Processor milliseconds of a call of each candidate, [rounds], in `turns`.

    Args:
      running: function from a state to the next one, and the first state, which is given up.
      rounds: that count.
    """
    states = {name: state for name, (_, state) in running.items()}

    def sample(name: str) -> float:
        states[name], _, used = clocked(lambda: running[name][0](states[name]))
        return 1000 * used

    return turns({name: partial(sample, name) for name in running}, rounds)


def made_with(**more: Any) -> str:
    """What a measurement was made with: versions, devices and the commit, and more."""
    about = environment() | more
    return ", ".join(f"{name} {one}" for name, one in about.items() if one != "not installed")


def ratio(times: np.ndarray, reference: np.ndarray) -> list[str]:
    """Median over rounds of the ratio within a round, and its quartiles, as text."""
    low, middle, high = np.quantile(times / reference, [0.25, 0.5, 0.75])
    return [f"{middle:.3f}", f"{low:.3f}-{high:.3f}"]


def processor_table(what: str, taken: Mapping[str, np.ndarray]) -> str:
    """Medians of `processor_ms`, and ratios to the first candidate."""
    first = next(iter(taken))
    rows = [[name, f"{np.median(ms):.2f}", *ratio(ms, taken[first])] for name, ms in taken.items()]
    return common.table([what, "processor [ms]", f"/ {first}", "quartiles"], rows)


def sides_table(what: str, sides: Mapping[str, Mapping[str, Any]], unit: str) -> str:
    """The numbers of ours and of one other side, and how many times as fast ours is in a unit."""
    ours, other = sides.values()
    rows = [[name, *(f"{one[key]:,.2f}" for key in ours)] for name, one in sides.items()]
    fold = ours[unit] / other[unit]
    return f"{common.table([what, *ours], rows)}\n\nours is {fold:.1f} times as fast\n"


class Load:
    """What processes other than these used of the machine since it was made; Linux only."""

    def __init__(self, processes: Sequence[int] = ()):
        self.processes = [os.getpid(), *processes]
        self.start, self.busy = time.perf_counter(), self._others()

    def __str__(self) -> str:
        if not Path("/proc/stat").exists():
            return "use of the machine by others: unknown"
        seconds = (time.perf_counter() - self.start) * os.cpu_count()
        used = max(0.0, self._others() - self.busy) / seconds
        return f"others used {used:.0%} of the machine" + (": NOISY" if used > 0.03 else "")

    def _others(self) -> float:
        """Seconds of processor time so far, less our own."""
        if not Path("/proc/stat").exists():
            return 0.0
        words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, _, _, *rest = map(int, words)
        own = 0
        for process in self.processes:
            after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            own += sum(map(int, after_name[11:15]))  # children that ended, too
        return (user + nice + system + sum(rest) - own) / os.sysconf("SC_CLK_TCK")
