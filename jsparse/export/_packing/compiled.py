"""The C++ kernels, compiled on first use by the compiler of this machine, and cached.

The shared library is in a cache folder under a name that changes with the source, jaxlib, the
compiler and its flags; a second file has its size and checksum, which are compared before it is
loaded. Both are written whole. Processes and threads that need it at the same time wait for the
first one. Without a compiler, or on anything but Linux or macOS on x86 or ARM, `load` is False and
the caller uses plain JAX.

Environment: JSPARSE_CXX, the compiler ("off" for none; else CXX, c++, g++ or clang++);
JSPARSE_CACHE, the folder (else jsparse in XDG_CACHE_HOME or ~/.cache); JSPARSE_MAX_ISA, on x86 the
widest vectors that the kernels use where the processor has them: AVX512 (if not given), AVX2 or
SSE2; it is read once, when they are loaded.
"""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from importlib import metadata
from pathlib import Path

import jax

from jsparse._storage.files import to_disk, write_whole
from jsparse._storage.writers import one_at_a_time

SOURCES = Path(__file__).parent / "kernels"
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-shared", "-fno-exceptions", "-pthread", "-w")
TARGETS = (
    "jsparse_csr_forward",
    "jsparse_csr_backward",
    "jsparse_csr_weights",
    "jsparse_block_forward",
    "jsparse_csr_int8_forward",
    "jsparse_block_int8_forward",
    "jsparse_conv_forward",
    "jsparse_conv_backward",
    "jsparse_conv_weights",
)
ISAS = ("AVX512", "AVX2", "SSE2")
"""What JSPARSE_MAX_ISA may be."""
SECONDS = 600
"""Compiler timeout in seconds."""


_loading = threading.Lock()


def _unlock() -> None:
    """In a forked process, whose parent may have been loading."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


@functools.cache
def load() -> bool:
    """Whether `jax.ffi.ffi_call` can call the kernels: compiled, loaded and registered.

    Raises:
      ValueError: JSPARSE_MAX_ISA has another value than one of `ISAS`.
    """
    if (asked := os.environ.get("JSPARSE_MAX_ISA") or ISAS[0]) not in ISAS:
        raise ValueError(
            f"JSPARSE_MAX_ISA is {asked!r}; allowed are {', '.join(ISAS)}; unset it for the widest"
        )
    compiler = find_compiler()
    if not compiler:
        return False
    try:
        with _loading:
            _register(build(compiler, cache_folder()))
    except (OSError, AttributeError, RuntimeError) as error:
        warnings.warn(
            f"the sparse kernels could not be compiled or loaded; plain JAX is used: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


@functools.cache
def _register(path: Path) -> None:
    library = ctypes.CDLL(str(path))
    for name in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(library, name))
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")


def find_compiler() -> str:
    """The path of a C++ compiler; empty if there is none."""
    if sys.platform not in ("linux", "darwin"):
        return ""
    asked = os.environ.get("JSPARSE_CXX", "")
    if asked == "off":
        return ""
    names = [asked] if asked else [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    found = (shutil.which(name) for name in names if name)
    return next((path for path in found if path), "")


def cache_folder() -> Path:
    """Where compiled kernels are kept between processes."""
    if asked := os.environ.get("JSPARSE_CACHE"):
        return Path(asked)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jsparse"


def build(compiler: str, folder: Path) -> Path:
    """The shared library, compiled unless the folder has it.

    Args:
      compiler: path.
      folder: where libraries are kept; if it is not writable, a temporary one is used.

    Raises:
      OSError: the compiler does not start.
      RuntimeError: it fails; with the end of its output.
    """
    library = folder / f"sparse-{_key(compiler)}.so"
    if library.exists() and _is_whole(library):
        return library
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(folder, os.W_OK):
        folder = Path(tempfile.mkdtemp(prefix="jsparse-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        library = folder / library.name
    with one_at_a_time(folder):
        if library.exists():
            if _is_whole(library):  # another process was faster
                return library
            warnings.warn(
                f"{library} is not what was compiled: its size or checksum differs from those in "
                f"{_sum_of(library).name}; it is recompiled",
                RuntimeWarning,
                stacklevel=3,
            )
        part = _compile(compiler, folder)
        try:
            to_disk(part)
            # first: whoever sees the library sees its sum
            write_whole(_sum_of(library), _sum(part))
            os.replace(part, library)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        to_disk(folder)
    return library


def _sum_of(library: Path) -> Path:
    return library.with_suffix(".sum")


def _sum(path: Path) -> bytes:
    content = path.read_bytes()
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}\n".encode()


def _is_whole(library: Path) -> bool:
    """Whether a library is what was compiled, of that size."""
    try:
        return _sum_of(library).read_bytes() == _sum(library)
    except OSError:
        return False


def sources_key() -> str:
    """What programs that call the kernels depend on."""
    return hashlib.sha256("\0".join(_sources()).encode()).hexdigest()[:24]


def _sources() -> list[str]:
    return [path.read_text() for path in sorted(SOURCES.iterdir())]


def _key(compiler: str) -> str:
    """What the library depends on, in 24 letters."""
    version = _run([compiler, "--version"])
    place = [compiler, version, metadata.version("jaxlib"), platform.machine(), sys.platform]
    return hashlib.sha256("\0".join([*_sources(), *FLAGS, *place]).encode()).hexdigest()[:24]


def _compile(compiler: str, folder: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=".sparse-", suffix=".part", dir=folder)
    os.close(handle)
    part = Path(name)
    include = ["-isystem", jax.ffi.include_dir()]
    command = [compiler, *FLAGS, *include, str(SOURCES / "sparse.cc"), "-o", str(part)]
    try:
        _run(command)
    except (OSError, RuntimeError):
        part.unlink(missing_ok=True)  # linkers delete what they could not finish
        raise
    return part


def _run(command: list[str]) -> str:
    """What a command prints; it and its child processes are killed after `SECONDS`."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a compiler is a driver and its passes: all of them end at once
    ) as process:
        try:
            printed, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()  # until all that held its output have ended
            raise RuntimeError(f"{command[0]} took more than {SECONDS} seconds") from error
    if process.returncode:
        raise RuntimeError("\n".join([f"{' '.join(command)} failed", errors[-1500:]]))
    return printed
