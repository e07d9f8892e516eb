"""The network of `sensor-small`: convolutions and dense layers only, for full int8.

No layer pads, and every stride comes out even at the newest point: the same layers embed all windows of a long series
at once, and training does not pay for their overlap.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn import functional as nnf

LENGTH: Final = 64
FEATURES: Final = 2
DIM: Final = 32
STRIDE: Final = 8  # between windows that one pass over a series embeds
WIDTHS: Final = (32, 64, 96, 96)
_KERNELS: Final = (4, 3, 3, 3)
_STRIDES: Final = (2, 2, 2, 1)  # 64 points become 31, 15, 7, 5
_LEFT: Final = 5
_SKIP: Final = 16  # the newest points also reach the embedding through one linear layer


class SensorSmall(nn.Module):
    """Maps scaled values and differences, float32 [n, 64, 2], to an embedding, float32 [n, 32]."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        narrow = FEATURES
        for wide, kernel, stride in zip(widths, _KERNELS, _STRIDES, strict=True):
            layers += [nn.Conv2d(narrow, wide, (kernel, 1), stride=(stride, 1)), nn.ReLU6()]
            narrow = wide
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(narrow * _LEFT, DIM)
        self.skip = nn.Linear(_SKIP * FEATURES, DIM)

    def forward(self, windows: Tensor) -> Tensor:
        """Embed windows."""
        deep = self.body(windows.transpose(1, 2).unsqueeze(-1))
        newest = windows[:, LENGTH - _SKIP :, :].reshape(-1, _SKIP * FEATURES)
        out: Tensor = self.head(deep.flatten(1)) + self.skip(newest)
        return out

    def along(self, series: Tensor) -> Tensor:
        """Embed every eighth window of each series, float32 [n, points, 2] to [n, (points - 64) // 8 + 1, 32].

        The first is of the first 64 points.
        """
        channels = series.transpose(1, 2).unsqueeze(-1)
        head = self.head.weight.view(DIM, -1, _LEFT, 1)
        skip = self.skip.weight.view(DIM, _SKIP, FEATURES).transpose(1, 2).unsqueeze(-1)
        newest = nnf.conv2d(channels[:, :, LENGTH - _SKIP :], skip, self.skip.bias, stride=(STRIDE, 1))
        out: Tensor = nnf.conv2d(self.body(channels), head, self.head.bias) + newest
        return out.squeeze(-1).transpose(1, 2)
