"""Every C++ kernel gives the right numbers; without a compiler, or with a bad one, all goes on."""

import functools
import os
import subprocess
import sys
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


def test_two_processes_compile_at_once(tmp_path):
    compiler = compiler_that('sleep 0.3; echo "$$" > "$2"', tmp_path)
    program = (
        "import importlib.util as u; from pathlib import Path;"
        f"spec = u.spec_from_file_location('compiled', {compiled.__file__!r});"
        "compiled = u.module_from_spec(spec); spec.loader.exec_module(compiled);"
        f"print(compiled.build({str(compiler)!r}, Path({str(tmp_path / 'cache')!r})).read_text())"
    )
    command = [sys.executable, "-c", program]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert all(word.strip().isdigit() for word in said), said
    (left,) = (tmp_path / "cache").iterdir()
    assert left.suffix == ".so"
