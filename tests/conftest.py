"""Eight CPU devices, strict JAX, few and repeatable hypothesis examples.

No compilation cache by default: a test should compile what it claims to. To repeat runs three times
faster, set JAX_COMPILATION_CACHE_DIR to a folder and JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0;
pytest's settings let workers share the folder.
"""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# Read once, when jax is imported or starts its backend; pytest-xdist workers inherit both.
# Tests compile much and compute little: without LLVM's optimizations they take half the time, and
# a third less without fusion emitters, where the compiler can still do without.
# One part of a program at a time, as there is one worker a core.
_FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    "--xla_backend_optimization_level": "0",
    "--xla_cpu_parallel_codegen_split_count": "1",
}
if tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10):
    _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
for _flag, _value in _FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Lines of source in compiled programs, which no test reads, take a twentieth of the time.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

from collections.abc import Iterator  # noqa: E402
from functools import cache  # noqa: E402

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402

# JAX makes an MLIR context for each program that it lowers, a tenth of the time of the tests; they
# lower the same programs in one context.
_context = cache(getattr(mlir, "make_ir_context", lambda: None))  # private, and may go
mlir.make_ir_context = _context

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("local", deadline=None, max_examples=20)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_finish() -> None:
    """What imports made stays: a worker's heap grows to gigabytes, which each collection walks."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def _few_programs() -> Iterator[None]:
    """Compiled programs are dropped between modules before they use up the process's memory maps.

    JAX keeps every program it compiles, and each holds a few maps. Linux allows a process 65,530;
    the whole suite in one process needs more, and memory grows with them.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 8_000:
        jax.clear_caches()
        _context.cache_clear()
        gc.collect()


@pytest.fixture(autouse=True)
def _strict_dtypes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Strict dtype promotion, except where a test is marked `standard_dtypes`.

    It cannot be set for the whole process: optax raises a Python float to an int32 count in every
    bias correction (adam, lamb, muon, ...), and flax divides by integers in `avg_pool` and in its
    metrics. Doctests run as users do, without it.
    """
    marked = request.node.get_closest_marker("standard_dtypes") is not None
    with jax.numpy_dtype_promotion("standard" if marked else "strict"):
        yield
