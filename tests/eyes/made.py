"""Two small encoders of pictures, for tests that change one for another; weights are drawn, not trained.

`redshank-convert module tests.eyes.made:first --input-shape 64,64,3 --name eye --precision int8` makes the bundle that
lies here as a zip, and `second` the other.
"""

from __future__ import annotations

import torch
from torch import nn


class Eye(nn.Module):
    """Gives two maps, of 8 x 8 and 4 x 4 places."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Conv2d(3, 16, 8, 4), nn.Conv2d(16, 24, 3, 2, 1)
        self.third = nn.Conv2d(24, 32, 3, 2, 1)

    def forward(self, pictures):
        """Return maps [batch, places, places, dim] of pictures [batch, 64, 64, 3], 0 to 255."""
        padded = nn.functional.pad(pictures.permute(0, 3, 1, 2) / 127.5 - 1.0, (2, 2, 2, 2))
        fine = self.second(torch.relu(self.first(padded)))
        return fine.permute(0, 2, 3, 1), self.third(torch.relu(fine)).permute(0, 2, 3, 1)


def first():
    return Eye(1)


def second():
    return Eye(2)
