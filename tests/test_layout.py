"""The house keeps itself: who may import whom, and who may include whom."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="the tests run outside a checkout")

WORDS = {"batch", "samples", "stacking", "gradients", "losses", "models", "threads", "openmp"}
#: folder or file of fastmaml/ -> what it may import, beside the words and itself
IMPORTS: dict[str, set[str]] = {
    **{word: set() for word in WORDS},
    "plan": set(),
    "engines": {"plan", "_core", "kernels"},
    "runtime": {"plan", "engines", "_core", "maml"},  # maml: a type alone
    "diagnosis": {"plan", "engines", "maml"},  # the same
    "maml": {"plan", "engines", "runtime", "diagnosis"},
    "runs": set(),
    "tasks": {"runs"},
    "evaluation": {"plan", "maml", "tasks"},
    "training": {"plan", "engines", "maml", "evaluation", "runs", "tasks"},
    "rl": {"plan", "engines", "runtime", "runs", "training"},
    "recipes": {"plan", "maml", "evaluation", "runs", "tasks", "training", "rl"},
    "verify": {"plan", "engines", "_core"},
    "cli": {"maml", "recipes", "rl", "runs", "training", "verify", "_core"},
    "__main__": {"cli"},
}
#: one engine never imports another
ENGINES = {"cpu", "gpu", "functional", "reference"}
#: folder of csrc/ -> what it may include, beside itself
INCLUDES: dict[str, set[str]] = {
    "plain": set(),
    "machine": {"plain"},
    "host": {"plain", "machine"},
    "generic/tiles": {"plain", "machine"},
    "generic/layers": {"plain", "machine", "generic/tiles"},
    "generic/images": {"plain", "machine", "generic/tiles", "generic/layers"},
    "generic/passes": {"plain", "machine", "generic/tiles", "generic/layers", "generic/images"},
    "generic/forms": {"plain", "machine", "generic/tiles", "generic/layers", "generic/images", "generic/passes"},
    "generic": {"plain", "machine", "generic/passes", "generic/forms"},
    "python": {"plain", "machine", "host"},
}


def imported(path: Path) -> Iterator[str]:
    """Dotted names below fastmaml that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[2] for name in node.names if name.name.startswith("fastmaml."))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "fastmaml":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastmaml."):
            yield str(node.module).partition(".")[2]


def files_of(folder: Path) -> list[tuple[Path, str]]:
    """Python files, each with the folder or file at the top that it belongs to."""
    files = [(path, path.relative_to(folder).parts[0].removesuffix(".py")) for path in folder.rglob("*.py")]
    return [(path, room) for path, room in files if room != "__init__"]


def test_imports_never_go_up():
    wrong = [
        f"{path.relative_to(ROOT)} imports fastmaml.{name}"
        for path, room in files_of(ROOT / "fastmaml")
        for name in imported(path)
        if name.partition(".")[0] not in {*IMPORTS[room], *WORDS, room, "__version__"}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_engine_imports_another():
    wrong = [
        f"{path.relative_to(ROOT)} imports fastmaml.{name}"
        for path, room in files_of(ROOT / "fastmaml" / "engines")
        if room in ENGINES
        for name in imported(path)
        for other in ENGINES
        if other != room and name.startswith(f"engines.{other}")
    ]
    assert not wrong, "\n".join(wrong)


def test_every_folder_says_what_lives_there():
    packages = list((ROOT / "fastmaml").rglob("__init__.py"))
    assert len(packages) > 15
    assert [path for path in packages if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def room_of(name: str) -> str:
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == "generic" and len(parts) > 2 else parts[0]


def test_includes_never_go_up():
    sources = [path for path in (ROOT / "csrc").rglob("*.*") if path.is_file()]
    assert len(sources) > 60
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in sources
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(encoding="utf-8"), re.M)
        for room in [room_of(path.relative_to(ROOT / "csrc").as_posix())]
        if room_of(name) not in INCLUDES[room] | {room}
    ]
    assert not wrong, "\n".join(wrong)


def test_pybind11_lives_in_one_folder():
    known = [p for p in (ROOT / "csrc").rglob("*.*") if p.is_file() and "pybind11" in p.read_text(encoding="utf-8")]
    assert {path.parent.name for path in known} == {"python"}
