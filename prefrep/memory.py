"""Memory that was freed stays with the process, for programs that read and do not train."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of glibc's settings, see mallopt(3)


def keep_freed() -> None:
    """Have memory that was freed used again, and not given back to the kernel.

    Otherwise glibc gives back what large tensors leave and asks for it again in the next layer, and the first use of every page of 4 KiB
    waits for the kernel: an eighth of the time of scoring with SmolLM2 on two cores. The largest memory of the process is the same; between
    such times it stays that large. A training step keeps most of its tensors and gains nothing. Other C libraries are left alone.
    """
    if sys.platform != "linux":
        return
    if (setting := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        setting(TRIM_THRESHOLD, -1)  # never
        setting(MMAP_MAX, 0)  # no mapping of its own for a large tensor, which ends with it
