"""What the interpreter cannot see of a launch: specialisation, compilation of each variant, the grid; launch_dry.py."""

import pytest
import torch

from tests.kernels.compiler import answer_of

pytest.importorskip("triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU launches them itself")
def test_every_verb_as_it_is_launched():
    found = answer_of("launch_dry")
    for case in ("fully connected", "padded, learned", "a policy"):
        assert found[case][0] == "_meta_kernel"
        assert found[case][-3:] == ["_adapt_kernel", "_predict_kernel", "_hvp_kernel"]
    assert {"_forward_kernel", "_backward_kernel", "_tangent_kernel", "_head_kernel"} < set(found["images"])
