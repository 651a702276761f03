"""Memory that was freed stays with a process that scores on a CPU."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of glibc's settings, see mallopt(3)


def keep_freed() -> None:
    """Have memory that is freed from now on used again by this process, and not given back to the kernel.

    Otherwise glibc gives back what large tensors leave and asks for it again in the next layer, and the first use of every page of 4 KiB
    waits for the kernel: a seventh of the time of scoring with SmolLM2 on two cores. Between its largest moments the process stays as large
    as they were, and where sizes vary a little larger. So it is called after a model is loaded, which frees copies of weights, and not
    where tensors are on another device or wait for a backward pass. Other C libraries than glibc are left alone.
    """
    if sys.platform != "linux":
        return
    if (setting := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        setting(TRIM_THRESHOLD, -1)  # never
        setting(MMAP_MAX, 0)  # no mapping of its own for a large tensor, which ends with it
