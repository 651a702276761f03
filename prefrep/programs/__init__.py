"""The programs: one typed function each, called from the shell, with a YAML file, or from Python.

`prefrep score --model M --data D --out O`, `prefrep score --config score.yaml` and `prefrep.score(model=M, data=D, out=O)` are the same
call. `prefrep.cli` derives the shell's side from signatures and docstrings. A new program is a function in a file of its name, and a name
in `GROUPS`; a new benchmark is a name in `prefrep.programs.eval`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

GROUPS = {
    "train": ("fit", "validate", "test", "predict", "sweep", "adapt"),
    "use": ("score", "serve", "export"),
    "evaluate": ("eval", "report"),
    "work on data": ("inspect", "label", "cyclic"),
    "begin": ("quickstart", "config", "cache"),
}
NAMES = tuple(name for names in GROUPS.values() for name in names)
LIGHTNING = ("fit", "validate", "test", "predict")  # sub-commands of LightningCLI, whose parser they keep


def load(name: str) -> Any:
    """Return a program by name: a function, or for `eval` the module whose functions are the benchmarks."""
    if name == "eval":
        return import_module("prefrep.programs.eval")
    return getattr(import_module(f"prefrep.programs.{'fit' if name in LIGHTNING else name}"), name)
