"""The networks of the MAML paper (Finn, Abbeel, Levine 2017), as plain modules."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

WEIGHT_STD = 0.01  # of the authors' code, for every fully connected weight

LINEAR_ONLY = ("*linear*",)
"""`MAML(adapted=LINEAR_ONLY)` adapts the linear layers of `OmniglotMLP` in the inner loop but not the shifts
of its batch norms, which are meta-learned alone: what the authors' code does."""


def mlp(
    sizes: Sequence[int],
    activation: Callable[[], nn.Module] = nn.ReLU,
    batch_norm: bool = False,
    eps: float = 1e-3,
    generator: torch.Generator | None = None,
    initial_weights: str = "authors",
) -> nn.Sequential:
    """A fully connected network: linear1, (norm1,) activation1, …, and a linear layer without activation.

    Batch norm always takes the statistics of the batch at hand, at test too, and has a learned shift but no
    scale (its weight is frozen at 1), as in the authors' code. The linear layer before it has no bias: the
    norm would subtract it again. The authors' code has these biases, but their gradient is zero, so they
    change nothing.

    Args:
        sizes: inputs, the widths of the hidden layers, outputs.
        activation: makes the module after each hidden layer.
        batch_norm: put a batch norm between each hidden layer and its activation.
        eps: added to the batch norm's variance. TensorFlow's 1e-3, which the authors had, matters: the
            weights start so small that variances are of this size; PyTorch's default is 1e-5.
        generator: draws the weights; torch's global one by default.
        initial_weights: "authors", as their code: normal with σ = 0.01, truncated at 2σ, biases zero; or "torch", as
            nn.Linear: weights and biases uniform within ±1/√inputs.

    Raises:
        ValueError: fewer than two sizes, or one below 1; other initial weights.
    """
    if initial_weights not in _DRAW:
        raise ValueError(f"initial_weights={initial_weights!r}: choose one of {', '.join(_DRAW)}")
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes={list(sizes)}: give inputs, hidden widths and outputs, each at least 1")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, outputs) in enumerate(pairwise(sizes[:-1]), start=1):
        layers[f"linear{number}"] = _linear(inputs, outputs, not batch_norm, generator, initial_weights)
        if batch_norm:
            layers[f"norm{number}"] = _shift_only_norm(outputs, eps)
        layers[f"activation{number}"] = activation()
    layers[f"linear{len(sizes) - 1}"] = _linear(sizes[-2], sizes[-1], True, generator, initial_weights)
    return nn.Sequential(layers)


class SinusoidMLP(nn.Module):
    """The regression network, 1-40-40-1 with ReLU (section 5.1). x is [..., inputs], the output [..., 1].

    Args:
        hidden: widths of the hidden layers.
        inputs: 1, or 3 for the oracle, which is also given the amplitude and the phase.
        generator: draws the weights; torch's global one by default.
        initial_weights: as `mlp` has them.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (40, 40),
        inputs: int = 1,
        generator: torch.Generator | None = None,
        initial_weights: str = "authors",
    ) -> None:
        super().__init__()
        self.layers = mlp((inputs, *hidden, 1), generator=generator, initial_weights=initial_weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class OmniglotMLP(nn.Module):
    """The "no conv" network (section 5.2): 256-128-64-64, each with batch norm and ReLU, then a linear layer.

    Images [N, channels, H, W], or [N, pixels], become logits [N, ways]. See `mlp` for batch norm and the
    initial weights, and `LINEAR_ONLY` for what to adapt.

    Args:
        ways: classes of a task.
        hidden: widths of the hidden layers.
        pixels: inputs of an image.
        generator: draws the weights; torch's global one by default.
    """

    def __init__(
        self,
        ways: int = 5,
        hidden: Sequence[int] = (256, 128, 64, 64),
        pixels: int = 28 * 28,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.layers = mlp((pixels, *hidden, ways), batch_norm=True, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.flatten(x))


class Conv4(nn.Module):
    """Four 3×3 convolutions, each with batch norm and ReLU, then a linear layer; [N, channels, H, W] -> [N, ways].

    `omniglot_conv4` and `mini_imagenet_conv4` are the paper's (section 5.2), `snell_conv4` that of Snell et al. 2017,
    "Prototypical Networks", which many people bring.

    Weights of convolutions start as the authors' code has them: uniform within ±sqrt(6 / (fan in + fan out)) (Glorot),
    biases zero; those of the linear layer normal with σ = 0.01, truncated at 2σ. Batch norm takes the statistics of the
    batch at hand, at test too, and has a learned shift but no scale. The convolutions have no biases, which the norm
    would subtract again: the authors' code has them, with a gradient of zero.

    Args:
        ways: classes of a task.
        channels: of the images.
        filters: channels of each convolution.
        strided: convolutions with stride 2, then the mean over pixels; else 2×2 max-pooling, then all pixels.
        size: height and width of the images.
        affine: whether the norms have a scale too.
        eps: added to the norms' variance; TensorFlow's 1e-3, which the authors had.
        generator: draws the weights; torch's global one by default.

    Raises:
        ValueError: images so small that pooling leaves no pixel.
    """

    def __init__(
        self,
        ways: int = 5,
        channels: int = 1,
        filters: int = 64,
        strided: bool = True,
        size: int = 28,
        affine: bool = False,
        eps: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        left = size // 16
        if not strided and left < 1:
            raise ValueError(f"size={size}: four times 2×2 max-pooling needs images of at least 16×16 pixels")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, inputs in enumerate((channels, filters, filters, filters), start=1):
            layers[f"conv{number}"] = _conv(inputs, filters, 2 if strided else 1, generator)
            layers[f"norm{number}"] = _image_norm(filters, eps, affine)
            layers[f"activation{number}"] = nn.ReLU()
            if not strided:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
        if strided:
            layers["mean"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["linear"] = _linear(filters if strided else filters * left * left, ways, True, generator)
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


CONV_AND_LINEAR = ("*conv*", "*linear*")
"""`MAML(adapted=CONV_AND_LINEAR)` adapts all of `Conv4` in the inner loop but the shifts of its batch norms, which are
meta-learned alone: what the authors' code does."""


def omniglot_conv4(ways: int = 5, filters: int = 64, generator: torch.Generator | None = None) -> Conv4:
    """The paper's network for Omniglot, 28×28: stride 2, mean over pixels."""
    return Conv4(ways, 1, filters, generator=generator)


def mini_imagenet_conv4(
    ways: int = 5, filters: int = 32, size: int = 84, generator: torch.Generator | None = None
) -> Conv4:
    """The paper's network for MiniImagenet, 84×84 RGB: max-pooling, 800 features; of 32×32 for CIFAR-FS."""
    return Conv4(ways, 3, filters, strided=False, size=size, generator=generator)


def snell_conv4(
    ways: int = 5, channels: int = 1, filters: int = 64, size: int = 28, generator: torch.Generator | None = None
) -> Conv4:
    """Conv4 of Snell, Swersky, Zemel 2017: 64 filters, affine norms, max-pooling, a linear layer on all pixels."""
    return Conv4(ways, channels, filters, strided=False, size=size, affine=True, eps=1e-5, generator=generator)


def functorch_omniglot(ways: int = 5) -> nn.Sequential:
    """The network of PyTorch's functorch MAML example: three unpadded 3×3 convolutions of 64 filters, each with batch
    norm, ReLU and max-pooling, on 28×28 images. Weights as torch draws them."""
    layers: list[nn.Module] = []
    for inputs in (1, 64, 64):
        norm = nn.BatchNorm2d(64, track_running_stats=False)
        layers += [nn.Conv2d(inputs, 64, 3), norm, nn.ReLU(), nn.MaxPool2d(2, 2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, ways))


class Append(nn.Module):
    """[..., features] -> [..., features + count]: a parameter beside the outputs, the same for every sample.

    A Gaussian policy's state-independent log standard deviation is one, beside the mean.

    Args:
        value: [count], where the parameter starts.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.value.expand(*x.shape[:-1], -1)], -1)


def _conv(inputs: int, outputs: int, stride: int, generator: torch.Generator | None) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False, device="meta").to_empty(device="cpu")
    nn.init.xavier_uniform_(conv.weight, generator=generator)
    return conv


def _image_norm(channels: int, eps: float, affine: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=eps, track_running_stats=False)
    norm.weight.requires_grad_(affine)
    return norm


def _linear(
    inputs: int, outputs: int, bias: bool, generator: torch.Generator | None, initial_weights: str = "authors"
) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias, device="meta").to_empty(device="cpu")  # draws no numbers yet
    _DRAW[initial_weights](layer, generator)
    return layer


def _draw_as_authors(layer: nn.Linear, generator: torch.Generator | None) -> None:
    nn.init.trunc_normal_(layer.weight, std=WEIGHT_STD, a=-2 * WEIGHT_STD, b=2 * WEIGHT_STD, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _draw_as_torch(layer: nn.Linear, generator: torch.Generator | None) -> None:
    """The numbers of nn.Linear.reset_parameters, which takes no generator."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.in_features)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


_DRAW = {"authors": _draw_as_authors, "torch": _draw_as_torch}


def _shift_only_norm(features: int, eps: float) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(features, eps=eps, track_running_stats=False)
    norm.weight.requires_grad_(False)
    return norm
