"""What a user installs: the wheel and the sdist, built here and used outside the checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

PROGRAM = """
from importlib import metadata, resources
from pathlib import Path

import jax, jax.numpy as jnp, optax
from flax import nnx

import jsparse
from jsparse.export._packing import compiled

assert Path(jsparse.__file__).is_relative_to(Path("venv").resolve()), jsparse.__file__
assert metadata.version("jsparse") == jsparse.__version__
assert resources.files("jsparse").joinpath("py.typed").is_file()

rngs = nnx.Rngs(0)
net = nnx.Sequential(nnx.Linear(16, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 4, rngs=rngs))
halved, few = jsparse.Top(density=0.5, unit=jsparse.Filter()), jsparse.Top(density=0.1)
model = jsparse.sparsify(net, ("layers/0/kernel", halved), ("layers/2/kernel", few))
x = jax.random.normal(jax.random.key(0), (8, 16))
optimizer = jsparse.Optimizer(model, optax.adam(1e-3))
loss, grads = nnx.value_and_grad(lambda m: (m(x) ** 2).mean() + jsparse.cost(m))(model)
optimizer.update(model, grads)
assert "total" in str(jsparse.summary(model))

plain = jsparse.fold(model)
small, _ = jsparse.shrink(plain, x)
assert small.layers[0].kernel.shape[1] < 32
packed = jsparse.export.pack(plain, jsparse.export.csr())
for form in (small, packed):
    assert jnp.allclose(form(x), plain(x), atol=1e-5)
print("kernels", compiled.load(), bool(compiled.find_compiler()))

jsparse.report.save(model, "run", x, forms={"folded": plain, "shrunk": small})
Path("run/settings.json").write_text("{}")
Path("run/log.jsonl").write_text('{"step": 1, "accuracy": 0.5, "density": 0.3}\\n')
assert "<html" in jsparse.report.page("run").read_text()
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_wheel_works_outside_the_checkout(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "-q"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True)
    # the libraries of this environment but not its editable jsparse, as path files do not nest
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    done = subprocess.run(
        [python, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "JSPARSE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    compiled, compiler = done.stdout.split()[1:]
    assert compiled == compiler


def test_the_sdist_has_what_a_packager_needs(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE"}
    files |= {"pyproject.toml", "jsparse/py.typed", "jsparse/export/_packing/kernels/sparse.cc"}
    files |= {"tests/conftest.py", "experiments/dst_mnist.py", "docs/conf.py", ".ci/run"}
    assert files - names == set()
    assert not [name for name in names if name.startswith(("data/", "runs/", "docs/_build"))]
