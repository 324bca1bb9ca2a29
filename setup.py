"""Builds the C++ core by CMake and ninja. FASTMAML_PURE_PYTHON=1 leaves it out (the functional engine then runs)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeExtension(Extension):
    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        tag = f"{sys.implementation.cache_tag}-{self.plat_name}"
        build = ROOT / "build" / tag  # kept, so that an unchanged core is not compiled again
        configure = [
            program("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={program('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11_folder()}",
            "-DCMAKE_BUILD_TYPE=Release",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run([program("cmake"), "--build", str(build), "--target", "_core"], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        built = next(path for path in build.glob("_core*") if path.suffix in {".so", ".pyd", ".dylib"})
        shutil.copy2(built, target)


def program(name: str) -> str:
    """cmake and ninja come as Python packages; their scripts lie beside the interpreter or on the path."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise SystemExit(f"{name} was not found: pip install {name}, or set FASTMAML_PURE_PYTHON=1 to go without C++")
    return found


def pybind11_folder() -> str:
    import pybind11

    return str(pybind11.get_cmake_dir())


pure = os.environ.get("FASTMAML_PURE_PYTHON", "0") not in {"", "0"}
setup(
    packages=[*find_packages(include=["fastmaml", "fastmaml.*"]), "fastmaml.kernels"],
    package_data={"fastmaml": ["py.typed"]},
    ext_modules=[] if pure else [CMakeExtension("fastmaml._core")],
    cmdclass={"build_ext": CMakeBuild},
)
