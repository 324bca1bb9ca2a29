"""The least that `sample` asks of a policy, so that sampling is tested by itself."""

from __future__ import annotations

import torch


class Noisy:
    """Actions around the outputs."""

    @staticmethod
    def sample(outputs, generator):
        return outputs + 0.05 * torch.from_numpy(generator.standard_normal(outputs.shape)).to(outputs)


class Exact:
    """The outputs are the actions."""

    @staticmethod
    def sample(outputs, generator):
        return outputs


class Choice:
    """The likeliest of the choices."""

    @staticmethod
    def sample(outputs, generator):
        return outputs.argmax(-1)
