"""What is built and shipped: the wheels, the source archive, and the compiled core as a file."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

import fastmaml

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the tests run outside a checkout")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without anything that was built."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("csrc", "fastmaml", "kernels"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for file in ("CMakeLists.txt", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / file, copy)
    return copy


@pytest.fixture(scope="module")
def pure_wheel(checkout: Path) -> Path:
    """Built with FASTMAML_PURE_PYTHON=1."""
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", "pure", ".")
    run(*pip, cwd=checkout, FASTMAML_PURE_PYTHON="1")
    return next((checkout / "pure").glob("*.whl"))


def test_pure_wheel_holds_the_package_and_no_binary(checkout, pure_wheel):
    assert pure_wheel.name == f"fastmaml-{fastmaml.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(pure_wheel).namelist())
    modules = {path.relative_to(checkout).as_posix() for path in (checkout / "fastmaml").rglob("*.py")}
    assert modules | {"fastmaml/py.typed", "fastmaml/kernels/__init__.py"} <= names
    assert not [name for name in names if name.endswith((".so", ".cpp", ".h"))]


def test_pure_wheel_runs_on_functional_and_says_so_once(pure_wheel, tmp_path):
    zipfile.ZipFile(pure_wheel).extractall(tmp_path)
    script = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {sysconfig.get_path("purelib")!r}, {sysconfig.get_path("platlib")!r}]
import warnings
import torch, fastmaml, fastmaml.kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        maml = fastmaml.MAML(torch.nn.Linear(1, 1))
        data = torch.ones(2, 3, 1)
        maml.meta_loss((data, data, data, data)).backward()
print(maml.engine.name, [str(w.message) for w in caught if "fastmaml" in str(w.message)])
"""
    # -S: without site-packages' .pth files, by which an editable install would bring its own core
    said = run(sys.executable, "-S", "-c", script, cwd=tmp_path)
    engine, warned = said.strip().splitlines()[-1].split(" ", 1)
    assert engine == "functional"
    assert warned.count("the compiled core of fastmaml") == 1


def test_source_archive_holds_all_that_a_build_needs(checkout):
    run(sys.executable, "setup.py", "-q", "sdist", cwd=checkout)
    archive = next((checkout / "dist").glob("*.tar.gz"))
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    needed = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert needed | {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "kernels/__init__.py"} <= names


def test_build_without_a_compiler_says_what_to_do(checkout):
    environment = {**os.environ, "CMAKE_ARGS": "-DCMAKE_CXX_COMPILER=/no/such/compiler"}
    command = (sys.executable, "setup.py", "build_ext", "--build-lib", "nowhere")
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FASTMAML_PURE_PYTHON=1" in done.stderr


@pytest.fixture(scope="module")
def core() -> Path:
    module = pytest.importorskip("fastmaml._core", reason="the compiled core is not installed")
    return Path(module.__file__)


def binutils(name: str) -> str:
    found = shutil.which(name)
    if found is None or platform.system() != "Linux":
        pytest.skip(f"needs {name} on Linux")
    return found


def test_core_links_neither_torch_nor_python(core):
    said = run(binutils("readelf"), "-d", core, cwd=core.parent)
    libraries = re.findall(r"\(NEEDED\).*\[(.*)\]", said)
    assert libraries
    assert not [name for name in libraries if re.match(r"lib(torch|c10|python)", name)]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 has several instruction sets")
def test_wide_instructions_are_in_their_own_functions_only(core):
    """Else a processor without them would meet one: an inline function shared by all files, or a start-up routine."""
    vectors = defaultdict(set)
    function = ""
    for line in run(binutils("objdump"), "-d", "--no-show-raw-insn", core, cwd=core.parent).splitlines():
        if named := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = named[1]
        elif wide := re.search(r"%(ymm|zmm)", line):
            vectors[wide[1]].add(function)
    assert vectors["ymm"], "the module has no symbols, or no AVX2 code"
    assert vectors["zmm"]
    assert not [name for name in vectors["ymm"] if not re.search(r"8fastmaml(4avx2|6avx512)", name)]
    assert not [name for name in vectors["zmm"] if not re.search(r"8fastmaml6avx512", name)]


def test_everything_is_found_from_the_top_and_loaded_when_asked_for():
    program = """
import sys, fastmaml
later = ["fastmaml.rl", "fastmaml.tasks", "fastmaml.training.trainer"]
assert not any(name in sys.modules for name in later), "loaded too early"
assert all(getattr(fastmaml, name) is not None for name in fastmaml.__all__)
assert set(fastmaml.__all__) <= set(dir(fastmaml))
assert fastmaml.rl.Trainer is not fastmaml.Trainer
from fastmaml import Trainer, evaluate, load, tasks, models, rl
try:
    fastmaml.nothing
except AttributeError as error:
    assert "nothing" in str(error)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
