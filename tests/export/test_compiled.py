"""Every C++ kernel gives the right numbers; without a compiler, or with a bad one, all goes on."""

import functools
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jsparse.export._packing import compiled
from jsparse.export._packing.csr import Plan, csr_dot
from jsparse.export._packing.formats import (
    block_arrays,
    csr_arrays,
    csr_places,
)
from tests.support.packing import BATCHES, draw, matrix, needs_compiler


@needs_compiler
def test_the_kernels_compile_here():
    assert compiled.load()


def weighted(arrays, plan, weight, values, x):
    return (csr_dot(arrays._replace(values=values), x, plan) * weight).sum()


@needs_compiler
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_every_kernel_of_csr(lanes):
    kernel = matrix(70, 37)
    for batch, width in zip(BATCHES, (70, 16, 70, 16), strict=True):
        arrays, plan = csr_arrays(kernel, width), Plan(70, 37, width, lanes)
        x, weight = jnp.asarray(draw(batch, 70, seed=2)), jnp.asarray(draw(batch, 37, seed=3))
        product = functools.partial(weighted, arrays, plan, weight)
        np.testing.assert_allclose(csr_dot(arrays, x, plan), x @ kernel, atol=1e-4)
        dvalues, dx = jax.grad(product, (0, 1))(arrays.values, x)
        np.testing.assert_allclose(dx, weight @ kernel.T, atol=1e-4)
        dense = csr_arrays(np.where(kernel != 0, x.T @ weight, 0), width).values
        np.testing.assert_allclose(dvalues, dense, atol=1e-4)


@needs_compiler
@pytest.mark.slow
def test_csr_of_any_shape_against_numpy():
    assert compiled.load()
    for seed in range(8):
        compare_with_numpy(random.Random(seed))


@np.errstate(invalid="ignore")
def compare_with_numpy(choice: random.Random) -> None:
    """In float64; what is not finite reaches what reads it, and nothing else."""
    for batch in (0, *choice.sample(range(1, 101), 3)):
        inputs, outputs = choice.randint(1, 90), choice.randint(1, 70)
        width, lanes = choice.choice([1, 7, inputs, 2 * inputs]), choice.choice([4, 8, 16])
        drawn = np.random.default_rng(choice.randrange(2**32))
        kept = drawn.random((inputs, outputs)) < choice.choice([0.02, 0.3, 1.0])
        kept[:, drawn.random(outputs) < 0.2] = kept[drawn.random(inputs) < 0.2] = False
        kernel = np.float32(drawn.standard_normal(kept.shape) * kept)
        arrays, plan = csr_arrays(kernel, width), Plan(inputs, outputs, width, lanes)
        rows, columns = csr_places(arrays, outputs, width)
        x, dy = (np.float32(drawn.standard_normal((batch, n))) for n in (inputs, outputs))
        if batch:
            x[-1, 0], dy[0, -1] = choice.choice([np.nan, np.inf]), -np.inf
        y, back = jax.vjp(
            lambda v, x, a=arrays, p=plan: csr_dot(a._replace(values=v), x, p),
            arrays.values,
            jnp.asarray(x),
        )
        dvalues, dx = back(jnp.asarray(dy))
        compare(y, x, kernel, kept)
        compare(dx, dy, kernel.T, kept.T)
        whole = x.T.astype(np.float64)[:, :, None] * dy[None]  # [inputs, batch, outputs]
        np.testing.assert_allclose(dvalues, whole.sum(1)[rows, columns], rtol=1e-4, atol=1e-4)


def compare(found, x: np.ndarray, kernel: np.ndarray, kept: np.ndarray) -> None:
    """A product with a matrix in which what is not kept is not read."""
    terms = x.astype(np.float64)[:, :, None] * kernel[None]
    expected = np.where(kept[None], terms, 0).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


THREADED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jsparse.export import blocks, csr
def numbers(*shape): return np.float32(np.random.default_rng(0).standard_normal(shape))
def sparse(layer):
    kernel = numbers(*layer.kernel.shape)
    layer.kernel[...] = jnp.asarray(kernel * (abs(kernel) > 1))
    return layer
linear = sparse(nnx.Linear(300, 200, use_bias=False, rngs=nnx.Rngs(0)))
conv = sparse(nnx.Conv(24, 40, (3, 3), use_bias=False, rngs=nnx.Rngs(0)))
found = []
for layer, batches, shape in (
    (csr(64)(linear), (1, 33, 200), (300,)),
    (blocks((4, 4))(linear), (1, 200), (300,)),
    (csr()(conv), (1, 3, 50), (13, 11, 24)),
):
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    square = lambda p, x: (nnx.merge(graph, p, rest)(x) ** 2).sum()
    for batch in batches:
        x = jnp.asarray(numbers(batch, *shape))
        found += [layer(x), *jax.tree.leaves(jax.jit(jax.grad(square, (0, 1)))(params, x))]
np.savez(sys.argv[1], *found)
"""


@needs_compiler
@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_threads(tmp_path):
    """Without biases, whose gradients XLA sums thread by thread."""
    found = []
    for count in ("1", "2", "7"):  # of XLA's pool
        file = tmp_path / f"{count}.npz"
        given = os.environ | {"NPROC": count, "XLA_FLAGS": ""}
        subprocess.run([sys.executable, "-c", THREADED, file], env=given, check=True)
        found.append(np.load(file))
    assert len(found[0].files) > 20
    for name in found[0].files:
        assert all(np.array_equal(found[0][name], one[name]) for one in found[1:]), name


@needs_compiler
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_every_kernel_of_blocks(lanes):
    assert compiled.load()
    kernel = matrix(70, 37)
    for batch, block in zip(BATCHES, ((8, 4), (7, 5), (8, 4), (100, 12)), strict=True):
        x = jnp.asarray(draw(batch, 70, seed=2))
        shape = jax.ShapeDtypeStruct((batch, 37), jnp.float32)
        call = jax.ffi.ffi_call("jsparse_block_forward", shape)
        y = call(*block_arrays(kernel, block), x, lanes=np.int64(lanes))
        np.testing.assert_allclose(y, x @ kernel, atol=1e-4)


def lanes(asked: str) -> int:
    """Floats in a vector of the kernels in a process of its own, under JSPARSE_MAX_ISA."""
    library = compiled.build(compiled.find_compiler(), compiled.cache_folder())
    asks = f"import ctypes; print(ctypes.CDLL({str(library)!r}).jsparse_lanes())"
    environment = {"JSPARSE_MAX_ISA": asked}
    command = [sys.executable, "-I", "-S", "-c", asks]
    return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


@needs_compiler
def test_wide_vectors_can_be_forbidden(monkeypatch):
    found = [lanes(asked) for asked in compiled.ISAS]
    assert found == [min(found[0], most) for most in (16, 8, 4)]
    monkeypatch.setenv("JSPARSE_MAX_ISA", "avx2")
    said = "JSPARSE_MAX_ISA is 'avx2'; allowed are AVX512, AVX2, SSE2"
    with pytest.raises(ValueError, match=said):
        compiled.load.__wrapped__()
    monkeypatch.setenv("JSPARSE_MAX_ISA", "")  # as if it were not set
    monkeypatch.setenv("JSPARSE_CXX", "off")
    assert not compiled.load.__wrapped__()


@pytest.mark.parametrize("asked", ["off", "no-such-compiler"])
def test_no_compiler_is_no_error(asked, monkeypatch):
    monkeypatch.setenv("JSPARSE_CXX", asked)
    assert compiled.find_compiler() == ""
    assert not compiled.load.__wrapped__()


COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo test; exit; fi
while [ "$1" != -o ]; do shift; done
"""


def compiler_that(does: str, folder: Path) -> Path:
    """A shell script in place of a compiler; "$2" is the file it has to write."""
    compiler = folder / "compiler"
    compiler.write_text(COMPILER + does)
    compiler.chmod(0o755)
    return compiler


def test_a_compiler_that_fails_is_said_once_and_plain_jax_used(monkeypatch, tmp_path):
    broken = compiler_that("echo out of order >&2; exit 1", tmp_path)
    monkeypatch.setenv("JSPARSE_CXX", str(broken))
    monkeypatch.setenv("JSPARSE_CACHE", str(tmp_path / "cache"))
    with pytest.warns(RuntimeWarning, match="out of order"):
        assert not compiled.load.__wrapped__()
    assert not list((tmp_path / "cache").iterdir())  # nothing half made is left


def test_a_compiler_that_hangs_ends_with_all_it_started(monkeypatch, tmp_path):
    child = f'(while :; do echo works >> "{tmp_path}/child"; sleep 0.05; done)'
    hangs = compiler_that(f"{child} & wait", tmp_path)
    monkeypatch.setattr(compiled, "SECONDS", 0.5)
    with pytest.raises(RuntimeError, match=r"took more than 0\.5 seconds"):
        compiled.build(str(hangs), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    written = len((tmp_path / "child").read_text())
    time.sleep(0.3)
    assert len((tmp_path / "child").read_text()) == written > 0


def test_where_nothing_can_be_kept_the_library_ends_with_the_process(monkeypatch, tmp_path):
    compiler = compiler_that('echo made > "$2"', tmp_path)
    ends: list = []
    monkeypatch.setattr(compiled.os, "access", lambda *_: False)
    monkeypatch.setattr(compiled.atexit, "register", lambda *a, **k: ends.append((a, k)))
    library = compiled.build(str(compiler), tmp_path / "cache")
    assert library.read_text() == "made\n" and library.parent != tmp_path / "cache"
    (((end, *args), options),) = ends
    end(*args, **options)
    assert not library.parent.exists()


BUILDS = """
import os, sys, threading
from pathlib import Path
from jsparse.export._packing import compiled
compiler, folder = sys.argv[1], Path(sys.argv[2])
"""
ONE = "print(compiled.build(compiler, folder).read_text(), end='')"
THREADS = """
found = []
build = lambda: found.append(compiled.build(compiler, folder).read_text())
threads = [threading.Thread(target=build) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*set(found), sep='', end='')
"""
FORKS = """
import time
thread = threading.Thread(target=lambda: compiled.build(compiler, folder))
thread.start()
time.sleep(0.2)  # it compiles
child = os.fork()
path = compiled.build(compiler, folder)
if not child: os._exit(3 if path.read_text() else 4)
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
print(path.read_text(), end='')
"""


def slow_compiler(folder: Path) -> Path:
    """It takes a second, and counts how often it was called."""
    return compiler_that(f'echo $$ >> "{folder}/calls"; sleep 1; echo "$$" > "$2"', folder)


@pytest.mark.parametrize(
    ("program", "count"), [pytest.param(ONE, 4, marks=pytest.mark.slow), (THREADS, 1), (FORKS, 1)]
)
def test_who_compiles_at_once_waits_for_one(program, count, tmp_path):
    compiler = slow_compiler(tmp_path)
    call = [sys.executable, "-W", "ignore", "-c", BUILDS + program, compiler, tmp_path / "cache"]
    many = [subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    said = [process.communicate()[0] for process in many]
    assert [process.returncode for process in many] == [0] * count
    assert said == [(tmp_path / "calls").read_text()] * count  # called once, for all
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".so", ".sum"]


def test_a_damaged_library_is_compiled_anew(tmp_path):
    cache, compiler = tmp_path / "cache", str(compiler_that('echo made > "$2"', tmp_path))
    library = compiled.build(compiler, cache)
    total = library.with_suffix(".sum")
    before = total.read_bytes()
    for path, content in ((library, b"mad\n"), (library, b""), (library, b"Made\n"), (total, b"")):
        path.write_bytes(content)
        with pytest.warns(RuntimeWarning, match=rf"{library} is not what was compiled.*recompiled"):
            assert compiled.build(compiler, cache) == library
        assert library.read_text() == "made\n" and total.read_bytes() == before
    assert compiled.build(compiler, cache) == library  # without a warning
    library.unlink()
    assert compiled.build(compiler, cache) == library
    assert len(list(cache.iterdir())) == 2


def test_a_full_disk_leaves_no_library(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("JSPARSE_CXX", str(compiler_that('echo made > "$2"', tmp_path)))
    monkeypatch.setenv("JSPARSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "write_whole", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert not compiled.load.__wrapped__()
    assert not list((tmp_path / "cache").iterdir())


def test_a_linker_that_deletes_what_it_could_not_finish_is_heard(tmp_path, monkeypatch):
    fails = 'rm "$2"; echo "cannot write: No space left on device" >&2; exit 1'
    monkeypatch.setenv("JSPARSE_CXX", str(compiler_that(fails, tmp_path)))
    monkeypatch.setenv("JSPARSE_CACHE", str(tmp_path / "cache"))
    with pytest.warns(RuntimeWarning, match="cannot write: No space left on device"):
        assert not compiled.load.__wrapped__()
    assert not list((tmp_path / "cache").iterdir())


@needs_compiler
def test_threads_load_once(monkeypatch):
    registered, register = [], functools.cache(compiled._register.__wrapped__)
    monkeypatch.setattr(compiled, "_register", register)  # the process keeps its own
    note = lambda name, *given, **options: registered.append(name)
    monkeypatch.setattr(jax.ffi, "register_ffi_target", note)
    threads = [threading.Thread(target=compiled.load.__wrapped__) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registered == list(compiled.TARGETS)
