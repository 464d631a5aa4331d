"""The peak is of this process alone: neither less than what it held, nor what its parent held."""

import subprocess
import sys

import numpy as np

from seal.artifacts.memory import peak_memory_bytes

MIB = 2**20


def test_the_peak_covers_what_was_held_and_let_go():
    before = peak_memory_bytes()
    block = np.ones(256 * MIB, dtype=np.uint8)
    del block
    after = peak_memory_bytes()
    assert before is not None
    assert after is not None
    assert after >= 256 * MIB
    assert peak_memory_bytes() >= after, "a peak never falls"


def test_a_child_does_not_inherit_the_peak_of_its_parent():
    block = np.ones(256 * MIB, dtype=np.uint8)
    code = "from seal.artifacts.memory import peak_memory_bytes; print(peak_memory_bytes())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert block[-1] == 1
    assert 2 * MIB < int(found.stdout) < 128 * MIB
