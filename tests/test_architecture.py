"""The shape of the package, read from its source: who imports whom, names, lengths.

Everything is found by `violations`, which takes any folder laid out like the package, so the second
half of this file can plant faults in a temporary one. Rooms that do not exist yet are no fault.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ["_versions", "_values", "_step", "_sharding", "_pattern", "_tiles", "_counting"]
ROOMS += ["_random", "_topk", "_score", "_schedule", "_checks", "_budget", "schedule", "_paths"]
ROOMS += ["rules", "_tree", "tree", "_variables", "_untraced", "_placing", "_sparse"]
ROOMS += ["_coupled", "_slots", "_linen", "_bridge", "_roles", "_events", "_surgery", "_pure"]
ROOMS += ["_jaxprs", "_flops", "_timing", "_watch", "_layers", "_recall", "layers", "_revise"]
ROOMS += ["optim", "_storage", "_fill", "report", "heads", "export._shrinking", "importance"]
ROOMS += ["prune", "export._packing", "export._saving", "export", "_packed_training"]
LIBRARIES = {room: {"jax", "numpy"} for room in ROOMS[: ROOMS.index("_variables")]}  # others: any
LIBRARIES["_revise"] = {"jax", "numpy", "optax"}
OPEN = {"rules", "_revise", "importance", "prune"}  # one method per file, without one another
CONTRACT = {  # the exceptions: what the methods of a room share
    "jsparse.rules._rule",
    "jsparse.rules._stacked",
    "jsparse.rules._remaining",
    "jsparse.rules._coupled",
    "jsparse._revise.revision",
    "jsparse._revise.moments",
    "jsparse._revise.layers",
    "jsparse._revise.pairs",
    "jsparse._revise.pause",
    "jsparse._revise.step",
    "jsparse.importance._members",
    "jsparse.importance._activations",
    "jsparse.importance._gradients",
    "jsparse.prune._calibration",
    "jsparse.prune._inputs",
    "jsparse.prune._sweep",
    "jsparse.prune._choice",
    "jsparse.prune._weights",
    "jsparse.prune._folder",
    "jsparse.prune._rounds",
    "jsparse.prune._search",
    "jsparse.prune._costs",
}
READERS, WRITERS = {"report", "export"}, {"_revise", "prune"}
BANNED = {"manager", "updater", "calculator", "handler", "util", "helper"}
LONG = "Long because"  # in the docstring of a file or function that must be longer


def imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for each name a module imports; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join(([*parents] if node.level else []) + [node.module or ""]).strip(".")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def import_fault(room: str, module: str, target: str) -> str | None:
    """Say what is wrong when `module` of `room` imports `target`, if anything is."""
    top, _, rest = target.partition(".")
    if top != "jsparse":
        allowed = LIBRARIES.get(room)
        if allowed and top not in allowed | set(sys.stdlib_module_names):
            return f"{room} may import only {', '.join(sorted(allowed))}"
        return None
    other = room_of(rest.split("."))
    if other not in ROOMS:
        return "import a room (jsparse._step), never the public facade"
    if ROOMS.index(other) > ROOMS.index(room):
        return f"{room} comes before {other}; imports point the other way"
    if room.split(".")[0] in READERS and other in WRITERS:
        return f"{room} only reads; it never imports {other}"
    inside_open = room == other and room in OPEN and module != f"jsparse.{room}"
    if inside_open and not any(f"{target}.".startswith(f"{shared}.") for shared in CONTRACT):
        return f"files in {room}/ never import one another"
    return None


def room_of(parts: list[str] | tuple[str, ...]) -> str:
    """The room of a module, given by its path below `jsparse`: export has three inside."""
    inner = ".".join(parts[:2])
    return inner if inner in ROOMS else parts[0]


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, name) for everything a module names itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def banned(name: str) -> bool:
    """Whether a word of a snake_case or CamelCase name is banned, in the singular or plural."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return any(word.lower().removesuffix("s") in BANNED for word in words)


def long_functions(tree: ast.Module, limit: int = 50) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of each function longer than `limit` lines, docstring not counted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node) or ""
            first = node.body[1] if doc and len(node.body) > 1 else node.body[0]
            doc_lines = first.lineno - node.body[0].lineno
            if node.end_lineno - node.lineno + 1 - doc_lines > limit and LONG not in doc:
                yield node.lineno, node.name


def violations(package: Path) -> list[str]:
    """List every breach of the house rules in a package folder, as `file:line: what`."""
    found: list[str] = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        inner = path.relative_to(package)
        place = f"jsparse/{inner.as_posix()}"
        parts = ("jsparse", *inner.with_suffix("").parts)
        module = ".".join(parts[:-1] if path.stem == "__init__" else parts)
        holder = ".".join(parts[:-1])
        if module != "jsparse":  # the facade itself may import every room
            room = room_of(parts[1:])
            if room not in ROOMS:
                found.append(f"{place}:1: {room} is not a room; the order is {' <- '.join(ROOMS)}")
                continue
            for line, target in imports(tree, holder):
                if fault := import_fault(room, module, target):
                    found.append(f"{place}:{line}: imports {target}: {fault}")
        for line, name in [*names(tree), *((1, part) for part in parts)]:
            if banned(name):
                found.append(f"{place}:{line}: {name}: not one of this project's words")
        for line, name in long_functions(tree):
            found.append(f"{place}:{line}: {name} is over 50 lines; split it or say '{LONG}'")
        if len(text.splitlines()) > 320 and LONG not in (ast.get_docstring(tree) or ""):
            found.append(f"{place}:1: over 320 lines; split it or say '{LONG}'")
    return found


def test_the_package_keeps_its_shape():
    assert violations(ROOT / "jsparse") == []


def test_experiments_import_only_what_they_share():
    files = sorted((ROOT / "experiments").glob("*.py"))
    siblings = {path.stem for path in files}
    for path in files:
        for line, target in imports(ast.parse(path.read_text()), "experiments"):
            top, _, rest = target.partition(".")
            first = rest.split(".")[0] if top == "experiments" else top
            assert first not in siblings - {"common"}, f"{path.name}:{line} imports {target}"


LONG_BODY = "    x = 1\n" * 50
PLANTED = {
    "import_forward": ("_step.py", "from jsparse.rules import _rule", "the other way"),
    "import_forward_from_package": ("_score.py", "from jsparse import _surgery", "the other way"),
    "import_forward_plain": ("_pattern.py", "import jsparse.optim as o", "the other way"),
    "import_forward_relative": ("rules/_top.py", "from .._sparse import Sparse", "the other way"),
    "import_inside_function": ("_step.py", "def f():\n    import jsparse._score", "the other way"),
    "facade_name": ("optim/_a.py", "from jsparse import Threshold", "facade"),
    "facade_name_from_init": ("rules/__init__.py", "from .. import Threshold", "facade"),
    "facade_plain": ("optim/_a.py", "import jsparse", "facade"),
    "facade_star": ("optim/_a.py", "from jsparse import *", "facade"),
    "flax_in_rules": ("rules/_top.py", "from flax import nnx", "may import only jax, numpy"),
    "optax_in_schedule": ("_schedule.py", "import optax", "may import only jax, numpy"),
    "flax_in_revise": ("_revise/rigl.py", "import flax.nnx", "may import only jax, numpy, optax"),
    "reader_revises": ("report/_summary.py", "from jsparse._revise import rigl", "only reads"),
    "export_prunes": ("export/_packing/csr.py", "import jsparse.prune._snip", "only reads"),
    "pack_before_shrink": (
        "export/_shrinking/cut.py",
        "from jsparse.export._packing import csr",
        "the other way",
    ),
    "sibling": ("rules/_top.py", "from jsparse.rules._held import Held", "one another"),
    "sibling_relative": ("_revise/rigl.py", "from .set import set_", "one another"),
    "sibling_by_folder": ("prune/_snip.py", "from jsparse.prune import _grasp", "one another"),
    "unknown_room": ("misc.py", "", "not a room"),
    "word_function": ("_step.py", "def mask_helper(): ...", "mask_helper"),
    "word_class": ("optim/_a.py", "class MaskUpdater: ...", "MaskUpdater"),
    "word_argument": ("_step.py", "def f(handler): ...", "handler"),
    "word_variable": ("_step.py", "my_utils = 1", "my_utils"),
    "word_file": ("report/_utils.py", "", "utils"),
    "long_function": ("_step.py", f"def f():\n    '''Doc.'''\n{LONG_BODY}", "over 50 lines"),
    "long_file": ("_step.py", "x = 1\n" * 321, "over 320 lines"),
}


@pytest.mark.parametrize(("file", "source", "message"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found(tmp_path, file, source, message):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(source)
    (found,) = violations(tmp_path)
    assert message in found


ALLOWED = {
    "facade": ("__init__.py", "from jsparse.rules import Threshold as Threshold"),
    "earlier_room": ("rules/_top.py", "from jsparse._step import gate\nfrom jsparse import _score"),
    "libraries": ("_step.py", "import jax.numpy as jnp\nimport dataclasses\nimport numpy as np"),
    "protocol": ("rules/_top.py", "from jsparse.rules._rule import State\nfrom ._rule import Rule"),
    "folder_facade": (
        "rules/__init__.py",
        "from jsparse.rules._top import Top\nfrom . import _top",
    ),
    "optax_in_revise": ("_revise/rigl.py", "import optax\nfrom jsparse._score import magnitude"),
    "flax_after_rules": ("_sparse.py", "from flax import nnx\nfrom jsparse.rules import Rule"),
    "closed_folder": ("report/_table.py", "from jsparse.report._summary import summary"),
    "foreign_words": ("optim/_a.py", "from optax import tree_utils\nutility = tree_utils"),
    "docstring": ("_step.py", "def f():\n    '''Doc.\n" + "\n" * 60 + "    '''\n    return 1"),
    "reason_function": ("_step.py", f"def f():\n    '''Doc. {LONG} so.'''\n{LONG_BODY}"),
    "reason_file": ("_step.py", f"'''Doc. {LONG} so.'''\n" + "x = 1\n" * 321),
}


@pytest.mark.parametrize(("file", "source"), ALLOWED.values(), ids=ALLOWED)
def test_what_is_allowed_is_not_reported(tmp_path, file, source):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(source)
    assert violations(tmp_path) == []
