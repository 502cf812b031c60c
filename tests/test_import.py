"""What `import jsparse` costs and offers: no further libraries, and a documented public surface."""

import ast
import importlib.util
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jsparse

ROOT = Path(__file__).parent.parent
NOT_OURS = {"chex", "orbax", "tensorflow", "torch", "matplotlib", "sklearn", "scipy", "hypothesis"}

LOADED = """
import json, sys
import jax, flax.nnx, optax
before = set(sys.modules)
import jsparse
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def test_import_loads_no_library_beyond_jax_flax_and_optax():
    run = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(run.stdout.splitlines()[-1]))
    assert loaded & NOT_OURS == set()
    assert loaded <= {"jsparse", "jax", "jaxlib", "flax", "optax"} | set(sys.stdlib_module_names)


def public_names() -> list[str]:
    """Names that the package takes from its rooms, in the order of `jsparse/__init__.py`."""
    source = ast.parse((ROOT / "jsparse" / "__init__.py").read_text())
    nodes = [node for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    return [alias.asname or alias.name for node in nodes for alias in node.names]


def test_each_public_name_is_listed_once_and_exists():
    names = public_names()
    assert len(set(names)) == len(names) > 0
    assert [name for name in names if not hasattr(jsparse, name)] == []
    assert set(getattr(jsparse, "__all__", names)) == set(names)


def public_modules() -> list[ModuleType]:
    """`jsparse` and every module below it that is reached by names without an underscore."""
    found = [jsparse]
    for module in found:
        inside = [v for n, v in vars(module).items() if n[0] != "_" and isinstance(v, ModuleType)]
        found += [value for value in inside if value not in found]
    return found


def test_public_names_are_modules_or_callables_and_never_both():
    modules = public_modules()
    assert {module.__name__ for module in modules} > {"jsparse", "jsparse.export", "jsparse.tree"}
    for module in modules:
        assert module.__name__.partition(".")[0] == "jsparse", f"{module.__name__} is not ours"
        assert importlib.import_module(module.__name__) is module
        for name in dir(module):
            if name[0] != "_":
                place = f"{module.__name__}.{name}"
                value = getattr(module, name)
                assert isinstance(value, ModuleType) or callable(value), place
                if importlib.util.find_spec(place) if hasattr(module, "__path__") else None:
                    assert importlib.import_module(place) is value, f"{place} hides a module"


def test_each_file_is_public_on_purpose():
    files = {path.relative_to(ROOT / "jsparse") for path in (ROOT / "jsparse").rglob("*.py")}
    named = {
        ".".join(("jsparse", *path.with_suffix("").parts)).removesuffix(".__init__")
        for path in files
    }
    public = {name for name in named if "._" not in name}
    assert public == {module.__name__ for module in public_modules()}


def test_each_public_function_and_class_has_its_own_docstring():
    public = {name: getattr(jsparse, name) for name in public_names()}
    written = {k: v for k, v in public.items() if inspect.isroutine(v) or inspect.isclass(v)}
    assert written
    # a dataclass without a docstring is given its signature as one: that does not count
    bare = [k for k, v in written.items() if (v.__doc__ or f"{k}(").startswith(f"{k}(")]
    assert bare == []
