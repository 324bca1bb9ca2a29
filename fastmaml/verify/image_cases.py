"""The networks on images on which every engine is held against the float64 reference, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from fastmaml.models import CONV_AND_LINEAR, Conv4

Shape = tuple[int, int, int]  # channels, height, width


def _norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)


def _omniglot(affine: bool = False) -> nn.Module:
    return Conv4(ways=3, filters=6, affine=affine).layers


def _pooled(affine: bool = False) -> nn.Module:
    return Conv4(ways=3, channels=3, filters=5, strided=False, size=16, affine=affine).layers


def _functorch() -> Sequence[nn.Module]:
    """Unpadded convolutions; a row and a column that no window of the pooling reaches."""
    first = [nn.Conv2d(1, 6, 3), _norm(6), nn.ReLU(), nn.MaxPool2d(2, 2)]
    return [*first, nn.Conv2d(6, 6, 3), _norm(6), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten(), nn.Linear(6, 3)]


def _wide() -> Sequence[nn.Module]:
    """More channels than a register-blocked tile has columns, and padded pixels of them."""
    first = [nn.Conv2d(3, 40, 3, padding=1), _norm(40), nn.Tanh()]
    return [*first, nn.Conv2d(40, 67, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(67 * 16, 3)]


def _uneven() -> Sequence[nn.Module]:
    """Windows that are not square, overlap, leave gaps or miss the border; norm without parameters."""
    return [
        *(nn.Conv2d(2, 5, 3, padding=1), nn.Tanh(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(5, 20, (3, 2), stride=(2, 1), padding=(1, 0)), nn.Tanh(), _norm(20, affine=False)),
        *(nn.Conv2d(20, 7, 2, stride=3), nn.Tanh(), nn.Flatten(), nn.Linear(7, 3)),
    ]


def _norm_first() -> Sequence[nn.Module]:
    """Parameters in front of the first convolution, and a mean over pixels as the output."""
    first = [_norm(3), nn.Conv2d(3, 17, 5, padding=2, bias=False), nn.Tanh(), nn.MaxPool2d(2)]
    return [*first, nn.Conv2d(17, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def _relu_first() -> Sequence[nn.Module]:
    """ReLUs right after the convolutions; norm and pooling behind them; ReLU once more."""
    first = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3, stride=2, padding=2), nn.ReLU(), _norm(6)]
    return [*first, nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)]


def _plain() -> Sequence[nn.Module]:
    """No norm, stride 3 with a 5×5 window."""
    first = [nn.Conv2d(1, 8, 5, stride=3, padding=2), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()]
    return [*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]


NETWORKS: Mapping[str, tuple[Shape, Callable[[], nn.Module | Sequence[nn.Module]]]] = {
    "conv4 stride": ((1, 20, 20), _omniglot),
    "conv4 stride affine": ((1, 20, 20), lambda: _omniglot(affine=True)),
    "conv4 pool": ((3, 16, 16), _pooled),
    "conv4 pool affine": ((3, 16, 16), lambda: _pooled(affine=True)),
    "functorch": ((1, 11, 11), _functorch),
    "wide": ((3, 9, 9), _wide),
    "uneven windows": ((2, 9, 7), _uneven),
    "norm first": ((3, 8, 8), _norm_first),
    "relu before norm": ((3, 8, 8), _relu_first),
    "no norm": ((1, 14, 13), _plain),
}
"""By name: the shape of a sample, and the network or its layers. Three outputs each."""

WAYS = 3


@dataclass(frozen=True)
class ImageCase:
    """A network of NETWORKS, a meta-batch's shape and a way to take the meta-gradient; see `Case`."""

    network: str
    tasks: int = 2
    support: int = 3
    query: int = 4
    steps: int = 1
    loss: str = "cross_entropy"
    rule: str = "second"
    ragged: bool = False
    inner_lr: str = "uniform"
    adapted: tuple[str, ...] | None = None
    seed: int = 0

    @property
    def shape(self) -> Shape:
        return NETWORKS[self.network][0]

    @property
    def name(self) -> str:
        """Everything that distinguishes the case, short enough for a table and for a test's name."""
        flags = [
            f"{self.network} {'×'.join(map(str, self.shape))}",
            "xent" if self.loss == "cross_entropy" else "mse",
            f"T{self.tasks} N{self.support} M{self.query} K{self.steps}",
            "1st" if self.rule == "first" else "2nd",
            "ragged" if self.ragged else "",
            "lr/element" if self.inner_lr == "element" else "",
            "partial" if self.adapted is not None else "",
        ]
        return " ".join(flag for flag in flags if flag)


IMAGE_CASES: tuple[ImageCase, ...] = (
    # The paper's networks, narrow; its code adapts everything but the shifts of the norms.
    ImageCase("conv4 stride"),
    ImageCase("conv4 stride", steps=3, adapted=CONV_AND_LINEAR),
    ImageCase("conv4 pool"),
    ImageCase("conv4 pool", adapted=CONV_AND_LINEAR, rule="first"),
    ImageCase("conv4 stride affine", tasks=3, inner_lr="element"),
    ImageCase("conv4 pool affine", ragged=True, support=4, query=5),
    ImageCase("functorch", steps=2),
    # Kinds of windows and orders of layers.
    ImageCase("wide", steps=2),
    ImageCase("wide", rule="first", steps=3, inner_lr="element"),
    ImageCase("uneven windows", tasks=5, steps=5, loss="mse"),
    ImageCase("uneven windows", ragged=True, support=5, query=6, inner_lr="element"),
    ImageCase("norm first", tasks=4, support=1, query=1, steps=3),
    ImageCase("relu before norm", steps=2, ragged=True, support=5),
    ImageCase("no norm", tasks=9, support=1, query=1, steps=10),
    ImageCase("no norm", support=20, query=1, ragged=True, loss="mse"),
)
"""What `fastmaml verify` runs of networks on images."""
