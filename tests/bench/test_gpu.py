"""What bench.gpu says where there is no GPU: counts, and that it needs one."""

import pytest
import torch

pytest.importorskip("triton")

from bench import gpu, gpu_count
from bench.problem import omniglot_conv, sinusoid


def test_counts_of_launches_bytes_and_floors():
    few, many = (gpu_count.count(sinusoid(1, tasks=tasks)) for tasks in (25, 50))
    assert few.launches == many.launches == 2
    assert many.operations == 2 * few.operations
    assert few.bytes < many.bytes < 2 * few.bytes + 1
    conv = gpu_count.count(omniglot_conv(tasks=2))
    assert conv.launches == 60
    twice = gpu_count.count(omniglot_conv(tasks=4))
    assert conv.bytes < twice.bytes <= 2 * conv.bytes
    assert twice.floor("tf32") <= twice.floor("ieee")
    assert twice.floor("tf32") >= 60 * gpu_count.LAUNCH


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match=r"needs a GPU .* --count"):
        gpu.main([])
