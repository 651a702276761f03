"""Freed memory: counted by page faults in a process of its own."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from prefrep.memory import keep_freed

if sys.argv[1] == "kept":
    keep_freed()
def use():
    torch.ones(2**24)  # 64 MiB: beyond what glibc ever takes from its heap by itself
    torch.ones(2**22).add(1)
for _ in range(6):  # aligned pieces find their places
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked")
def test_freed_memory_is_used_again() -> None:
    """Five times 64 MiB are 81 920 pages of 4 KiB, each with a fault if the kernel gives it anew; huge pages have fewer."""
    kept, given_back = faults("kept"), faults("given back")
    if given_back < 100:
        pytest.skip("this C library keeps freed memory by itself")
    assert kept < given_back / 20
