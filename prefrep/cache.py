"""Location of caches, whose contents can always be recomputed."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `$PREFREP_CACHE`, or else `prefrep` in the user's cache folder."""
    chosen = os.environ.get("PREFREP_CACHE")
    return Path(chosen).expanduser() if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "prefrep"
