"""Builds fastmaml._core from csrc with CMake and ninja. Everything else about the package is in pyproject.toml.

Environment:
    FASTMAML_PURE_PYTHON=1  leaves the extension out; the functional engine then runs
    FASTMAML_SANITIZE=1     builds it with AddressSanitizer and UndefinedBehaviorSanitizer
    FASTMAML_WIDE_ON_AVX2=1 builds the code for AVX-512 alone, its 64-byte vectors compiled for AVX2: a slow core, with
                            which AVX-512's tiles and logic are tested on processors that have no such instructions
    CMAKE_ARGS              further arguments for CMake
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
KINDS = ("SANITIZE", "WIDE_ON_AVX2")  # of build, each with a tree of its own; plain: none of them


def is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") not in {"", "0"}


def program(name: str) -> str:
    """cmake and ninja come as Python packages; their scripts lie beside the interpreter or on the path."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        raise SystemExit(f"{name} was not found: pip install {name}, or set FASTMAML_PURE_PYTHON=1 to go without C++")
    return found


def run(*command: str | Path) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"{Path(command[0]).name} stopped with status {error.returncode} while building csrc; its output is above. "
            "A C++17 compiler and Python's headers are needed, or FASTMAML_PURE_PYTHON=1 to go without C++"
        ) from None


class CMakeBuild(build_ext):
    """Hands the extension to CMake, whose tree stays in build/: an unchanged core is not compiled again."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        kinds = [kind for kind in KINDS if is_set(f"FASTMAML_{kind}")]
        name = "-".join([sys.implementation.cache_tag, *(kinds or ["release"])])
        tree = ROOT / "build" / name.lower().replace("_", "-")
        run(
            *(program("cmake"), "--log-level=NOTICE", "-S", ROOT, "-B", tree, "-G", "Ninja"),
            "-DCMAKE_INSTALL_MESSAGE=NEVER",
            f"-DCMAKE_MAKE_PROGRAM={program('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *(f"-DFASTMAML_{kind}={'ON' if kind in kinds else 'OFF'}" for kind in KINDS),
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        )
        run(program("cmake"), "--build", tree, "--target", "_core")
        destination = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        run(program("cmake"), "--install", tree, "--prefix", destination)


setup(
    packages=[*find_packages(include=["fastmaml", "fastmaml.*"]), "fastmaml.kernels"],
    package_dir={"fastmaml.kernels": "kernels"},
    package_data={"fastmaml": ["py.typed"]},
    ext_modules=[] if is_set("FASTMAML_PURE_PYTHON") else [Extension("fastmaml._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
