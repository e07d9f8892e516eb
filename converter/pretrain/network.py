"""The network of `sensor-small`: 254 k multiply-accumulates, convolutions and dense layers only, for full int8."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

LENGTH = 64
FEATURES = 2
DIM = 32
_SKIP = 16  # the newest points also reach the embedding through one linear layer


class SensorSmall(nn.Module):
    """Maps scaled values and differences, float32 [n, 64, 2], to an embedding, float32 [n, 32]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 32, 48, 64)
        layers: list[nn.Module] = [nn.Conv2d(FEATURES, widths[0], (5, 1), padding=(2, 0)), nn.ReLU6()]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, (3, 1), stride=(2, 1), padding=(1, 0)), nn.ReLU6()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] * LENGTH // 8, DIM)
        self.skip = nn.Linear(_SKIP * FEATURES, DIM)

    def forward(self, windows: Tensor) -> Tensor:
        """Embed windows."""
        deep = self.body(windows.transpose(1, 2).unsqueeze(-1))
        newest = windows[:, LENGTH - _SKIP :, :].reshape(-1, _SKIP * FEATURES)
        out: Tensor = self.head(deep.flatten(1)) + self.skip(newest)
        return out
