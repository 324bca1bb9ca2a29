"""Modules of these tests that need Triton's compiler, where the tests themselves run under its interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def answer_of(module: str) -> Any:
    """What `python -m tests.kernels.MODULE` prints, from JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", f"tests.kernels.{module}"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
