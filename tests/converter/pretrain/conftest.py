"""What needs PyTorch is collected only where it is, as in the folder above."""

from __future__ import annotations

from tests.converter.conftest import TORCH

collect_ignore = [] if TORCH else ["test_batch.py", "test_network.py", "test_objective.py", "test_train.py"]
