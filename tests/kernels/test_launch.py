"""What the interpreter cannot see of a launch: specialisation, compilation of each variant, the grid; launch_dry.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU launches them itself")
def test_every_verb_as_it_is_launched():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.launch_dry"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    for case in ("fully connected", "padded, learned", "a policy"):
        assert found[case][0] == "_meta_kernel"
        assert found[case][-3:] == ["_adapt_kernel", "_predict_kernel", "_hvp_kernel"]
    assert {"_forward_kernel", "_backward_kernel", "_tangent_kernel", "_loss_kernel"} < set(found["images"])
