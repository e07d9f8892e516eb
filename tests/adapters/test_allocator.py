from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import numpy as np
from agent.adapters.allocator import return_memory
if sys.argv[1] == "tuned":
    assert return_memory()
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
np.ones(30_000_000, np.uint8)  # from now on an untuned allocator keeps arrays up to this size in its heap
before = resident()
pairs = [(np.ones(1_000_000, np.uint8), np.ones(200_000, np.uint8)) for _ in range(40)]
kept = [small for _, small in pairs]
del pairs
print(resident() - before)
"""


def grown(word):
    return int(subprocess.run([sys.executable, "-c", PROGRAM, word], check=True, capture_output=True, text=True).stdout)


def test_freed_arrays_between_kept_ones_go_back_to_the_system():
    assert grown("tuned") < 15_000 < grown("untuned")
