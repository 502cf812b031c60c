"""Everything that needs a GPU, row by row in order of value, each within a time limit.

Command: experiments/gpu.sh                       (sets itself up first; needs one NVIDIA GPU)
         experiments/gpu.sh --dry                 (says what would run)
         JSPARSE_DEVICE=cpu experiments/gpu.sh    (a rehearsal without a GPU, with small sizes)
Minutes: 25, or --minutes. Run it again to continue: finished rows are skipped, interrupted training
    resumes from its last checkpoint, failed rows are retried at the end.

Each row writes OUT/CARD/NAME.json with the card, the versions, the command, its tables and the
final numbers of its runs, and NAME.log with its output. CIFAR-10 and MNIST come from $JSPARSE_DATA
or a download; without both, rows are trained on scikit-learn's digits and say so.
"""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from experiments import common
from experiments.common.record import DONE, FAILED, tables, within
from jsparse._storage.files import write_whole

ROOT = Path(__file__).parents[1]
WORTH = 45.0
"""Remaining seconds below which no further row is started."""
UNTRIED = "not run"
CARD = """
import json, jax
from experiments.common.settings import environment
device = jax.devices()[0]
print(json.dumps({"platform": device.platform, "card": device.device_kind, **environment()}))
"""


class Row(NamedTuple):
    """A row to run.

    Attributes:
      name: of its files.
      command: after `python -m`; `{out}` is the folder of its runs.
      rehearsal: the same, small.
      minutes: time limit of one attempt.
      environment: variables that it needs.
    """

    name: str
    command: str
    rehearsal: str
    minutes: float = 3.0
    environment: tuple[tuple[str, str], ...] = ()


CPU_TESTS = (("JAX_PLATFORMS", "cpu"),)
GPU_TESTS = (("JAX_PLATFORMS", "cuda,cpu"), ("XLA_PYTHON_CLIENT_PREALLOCATE", "false"))
BLOCKS, CIFAR = "experiments.bench.blocks", "experiments.dst_cifar --out {out}"
FEW_BLOCKS = f"{BLOCKS} --quick --sizes 256 --batch 64 --rounds 2 --densities 0.1"
SMALL_CIFAR = f"{CIFAR} --quick --no-dense --alphas 1e-3 --narrow 32 --epochs 1 --samples 128"
SMALL_CIFAR += " --tested 64"
RESNET = "experiments.compare --out {out} --network resnet-20"
SMALL_NET = "experiments.compare --out {out} --network small --seeds 1 --epochs 1 --samples 1000"
GIBBS = "experiments.gibbs_cifar --out {out}"
FRONTIER = "experiments.frontier --out {out}"
SMALL = "--quick --seeds 1 --epochs 1 --samples 256"
ONE_CALL = "experiments.structured_one_call --out {out}"
SMALL_CALL = f"{ONE_CALL} --quick --networks resnet --steps 4 --samples 512"
LARGE, SEARCH = "experiments.large_batch --out {out}", "experiments.search_budget --out {out}"
BRICK = "experiments.brick_tictactoe --out {out}"
STEP, FEW = "experiments.bench.step --only", "experiments.bench.step --rounds 2 --only"
ROWS = (
    Row(
        "tests on the card",
        "pytest -q -n 4 tests/test_contract.py tests/rules tests/export/test_pack.py"
        " tests/export/test_pallas.py",
        "pytest -q -n 0 tests/test_schedule.py",
        4,
        GPU_TESTS,
    ),
    *(
        Row(f"blocks {size}{name}", f"{BLOCKS} --sizes {size}{flag}", FEW_BLOCKS, 2)
        for size in (4096, 8192, 16384)
        for name, flag in ((", Mosaic GPU", " --mosaic"), ("", ""))
    ),
    Row(
        "Gibbs, ResNet-20, 40 epochs",
        f"{GIBBS} --structures weight --seeds 1 --epochs 40",
        f"{GIBBS} {SMALL} --structures weight",
        4,
    ),
    Row(
        "DST, ResNet-20, 20 epochs",
        f"{RESNET} --methods DST top RigL random --densities 0.1 --seeds 1 --epochs 20",
        f"{SMALL_NET} --methods DST --densities 0.1",
        4,
    ),
    Row("DST, VGG-16, 30 epochs", f"{CIFAR} --seeds 1 --epochs 30", SMALL_CIFAR, 5),
    *(
        Row(f"step and compile ratios, {network}", f"{STEP} {network}", f"{FEW} lenet-300-100", 2)
        for network in ("vgg-16", "transformer", "resnet-20", "lenet-300-100", "mlp-1024")
    ),
    Row("frontier", FRONTIER, f"{FRONTIER} {SMALL}", 3),
    Row(
        "frontier, LeNet-5",
        f"{FRONTIER} --network lenet-5",
        f"{FRONTIER} {SMALL} --network lenet-5 --alphas 1e-3 --batch 16",
        3,
    ),
    Row(
        "shrunk",
        "experiments.bench.shrunk --networks vgg-16 resnet-20",
        "experiments.bench.shrunk --networks lenet-300-100 --rounds 2",
        2,
    ),
    Row("tests", "pytest -q", "pytest -q -n 0 tests/test_schedule.py", 6, CPU_TESTS),
    Row("DST, VGG-16", CIFAR, SMALL_CIFAR, 9),
    Row("Gibbs, ResNet-20", f"{GIBBS} --stretch 1", f"{GIBBS} {SMALL} --structures filter", 9),
    Row("every method, ResNet-20", RESNET, f"{SMALL_NET} --methods SNIP --densities 0.1", 9),
    Row("structured", "experiments.structured --out {out}", "experiments.structured --out {out} "
        f"{SMALL} --methods magnitude --densities 0.25", 9),
    Row("SET and RigL", "experiments.set_rigl --out {out}", "experiments.set_rigl --out {out} "
        f"{SMALL} --densities 0.1", 9),
    Row("DST, WRN-16-8", f"{CIFAR} --network wrn-16-8 --alphas 1.4e-5 4e-5", SMALL_CIFAR, 9),
    Row("shrink while training", "experiments.shrink_training --out {out}",
        "experiments.shrink_training --out {out} --quick --epochs 1 --samples 2560", 9),
    Row("DropNet, model C", "experiments.dropnet --out {out} --models C", "experiments.dropnet "
        "--out {out} --quick --models A --methods minimum --seeds 1 --epochs 1 --rounds 1 "
        "--samples 200 --test-samples 200", 9),
    Row("structured, one call", ONE_CALL, SMALL_CALL, 9),
    Row("large batches", LARGE, f"{LARGE} --quick --tasks images --networks dense --ways LAMB "
        "--batches 128 --samples 256 --tested 100 --epochs 1", 9),
    Row("search, VGG-16", f"{SEARCH} --networks vgg-16 --narrow 1 --samples 50000 --budgets 0.1"
        " --evaluations 3000 --recover 32 --fine-tune 100", f"{SEARCH} --quick --costs parameters "
        "--budgets 0.1 --evaluations 8 --samples 1000 --epochs 1 --fine-tune 1", 9),
    Row("DST, WRN-28-8", f"{CIFAR} --network wrn-28-8 --alphas 1.1e-5 2.5e-5", SMALL_CIFAR, 9),
    Row("structured, one call, ResNet-56", f"{ONE_CALL} --networks resnet --depth 56 --steps 80000",
        SMALL_CALL, 9),
    Row("brick tic-tac-toe, 7x7", f"{BRICK} --board 7 --az.games 1024 --iterations 1000",
        f"{BRICK} --quick --iterations 2 --games 5 --tries 2", 9),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to run."""

    minutes: float = 25.0
    """Time after which rows are stopped; one is started if 45 seconds are left."""
    only: tuple[str, ...] = ()
    """Rows whose names contain one of these texts; all if empty."""
    out: str = "runs/gpu"
    """Folder of results, in which each card has its own."""
    dry: bool = False
    """Show what would run, and how long it may take."""

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"--minutes got {self.minutes}; give a number above 0")
        unknown = [text for text in self.only if not any(text in row.name for row in ROWS)]
        if unknown:
            names = "; ".join(row.name for row in ROWS)
            raise ValueError(f"--only got {unknown[0]!r}, which is in no row's name: {names}")


class Results(NamedTuple):
    """The folder of a card, and what is written with every row."""

    folder: Path
    facts: dict[str, Any]
    rehearsal: bool

    def command(self, row: Row) -> list[str]:
        """Program and arguments of a row."""
        text = row.rehearsal if self.rehearsal else row.command
        parts = [part.format(out=self.runs(row)) for part in shlex.split(text)]
        return [sys.executable, "-m", *parts]

    def runs(self, row: Row) -> Path:
        """Where a row's training runs are; other settings have other folders."""
        mark = zlib.crc32((row.rehearsal if self.rehearsal else row.command).encode())
        return self.folder / "runs" / f"{slug(row.name)}-{mark:08x}"

    def file(self, row: Row) -> Path:
        """Where a row's result is."""
        return self.folder / f"{slug(row.name)}.json"

    def status(self, row: Row) -> str:
        """The status of a row; one whose command has changed counts as not run."""
        try:
            found = json.loads(self.file(row).read_text())
            return found["status"] if found["command"] == self.command(row)[1:] else UNTRIED
        except (OSError, ValueError, KeyError, TypeError):
            return UNTRIED


def slug(text: str) -> str:
    """A text as the name of a file.

    >>> slug("DST, VGG-16")
    'DST-VGG-16'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-")


def waiting(rows: tuple[Row, ...], results: Results) -> list[Row]:
    """The rows that are not done, in order; those that failed come last."""
    status = {row.name: results.status(row) for row in rows}
    left = [row for row in rows if status[row.name] != DONE]
    return sorted(left, key=lambda row: status[row.name] == FAILED)


def run_row(row: Row, results: Results, seconds: float) -> str:
    """Run a row within its time limit, write the result, and return its status."""
    log, command = results.file(row).with_suffix(".log"), results.command(row)
    limit = min(60 * row.minutes, seconds)
    environment = {} if results.rehearsal else dict(row.environment)
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    outcome = within(command, log, limit, {**environment, "PYTHONUNBUFFERED": "1"})
    printed = log.read_text(errors="replace")
    runs = results.runs(row)
    finals = {
        str(path.parent.relative_to(runs)): json.loads(path.read_text())
        for path in sorted(runs.rglob("final.json"))
    }
    content = {
        "row": row.name,
        "status": outcome.status,
        "rehearsal": results.rehearsal,
        "command": command[1:],
        "begun": begun,
        "seconds": round(outcome.seconds, 1),
        "limit": round(limit, 1),
        **results.facts,
        "tables": tables(printed),
        "finals": finals,
        "last_lines": printed.splitlines()[-30:],
    }
    write_whole(results.file(row), (json.dumps(content, indent=1) + "\n").encode())
    return outcome.status


def opened(out: Path, rehearsal: bool) -> Results:
    """The folder of this machine's card.

    Raises:
      ValueError: JAX finds no GPU.
    """
    environment = {**os.environ, **({"JAX_PLATFORMS": "cpu"} if rehearsal else {})}
    # in a separate process, or this one would hold the card's memory
    done = subprocess.run(
        [sys.executable, "-c", CARD], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise ValueError(f"JAX does not start here:\n{done.stderr.strip()}")
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts["platform"] != "gpu" and not rehearsal:
        raise ValueError(
            f"no GPU: JAX {facts['jax']} of {sys.executable} finds {facts['card']}. On a machine "
            'with one, look at nvidia-smi and at pip install "jsparse[cuda13]" (driver 580 or '
            'newer) or "jsparse[cuda12]"; JSPARSE_DEVICE=cpu rehearses this script without one'
        )
    facts["cores"] = os.cpu_count()
    folder = out.absolute() / slug(f"rehearsal {facts['card']}" if rehearsal else facts["card"])
    folder.mkdir(parents=True, exist_ok=True)
    return Results(folder, facts, rehearsal)


def is_rehearsal() -> bool:
    """Whether $JSPARSE_DEVICE says cpu.

    Raises:
      ValueError: it is neither cpu nor gpu.
    """
    device = os.environ.get("JSPARSE_DEVICE", "gpu")
    if device not in ("cpu", "gpu"):
        raise ValueError(f"JSPARSE_DEVICE got {device!r}; give cpu to rehearse, or gpu")
    return device == "cpu"


def show_rows(rows: tuple[Row, ...], results: Results) -> None:
    """Print the status of each row."""
    lines = [[row.name, results.status(row), f"{row.minutes:g}"] for row in rows]
    print(common.table(["row", "status", "minutes at most"], lines))


def main(settings: Settings) -> None:
    """Run what is left, within the time limit."""
    end = time.monotonic() + 60 * settings.minutes
    results = opened(Path(settings.out), is_rehearsal())
    rows = tuple(r for r in ROWS if not settings.only or any(t in r.name for t in settings.only))
    if settings.dry:
        show_rows(rows, results)
        commands = [f"{row.name}: {shlex.join(results.command(row)[1:])}" for row in rows]
        return print("", *commands, sep="\n")
    os.environ |= {"JAX_PLATFORMS": "cpu"} if results.rehearsal else {}
    if not os.environ.get("JSPARSE_DATA"):
        print("JSPARSE_DATA is not set: data are downloaded, or are digits; logs say which")
    os.chdir(ROOT)
    left = waiting(rows, results)
    print(f"{results.facts['card']}: {len(left)} of {len(rows)} rows to run, {results.folder}")
    for row in left:
        seconds = end - time.monotonic()
        if seconds < WORTH:
            print(f"{settings.minutes:g} minutes are over; run it again to continue")
            break
        status = run_row(row, results, seconds)
        print(f"{row.name}: {status} after {settings.minutes - (end - time.monotonic()) / 60:.1f} "
              "minutes", flush=True)  # fmt: skip
    show_rows(rows, results)
    if any(results.status(row) == FAILED for row in rows):
        sys.exit(f"a row failed; its log is in {results.folder}")


if __name__ == "__main__":
    common.start(main, Settings, __doc__)
