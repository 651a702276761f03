"""Atomic replacement of model folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefrep.disk import expanded
from prefrep.errors import CheckpointError
from prefrep.room import saving

# Folders inside those of models: what tokenizers write, and the modules of sentence-transformers.
FOLDERS = {"additional_chat_templates", "1_Pooling", "2_Dense", "3_Normalize"}


@contextmanager
def replacing(folder: Path | str) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` on success; an older model there survives an exception and a kill.

    Args:
        folder: Final place of the model.

    Raises:
        CheckpointError: See `check_free`.
    """
    folder = expanded(folder).resolve()
    old, staging = (folder.with_name(folder.name + ending) for ending in (".old", ".partial"))
    if old.exists() and not folder.exists():  # killed between the two renames below
        old.rename(folder)
    check_free(folder)
    for left in (old, staging):
        shutil.rmtree(left, ignore_errors=True)
    with saving(folder):
        try:
            staging.mkdir(parents=True)
            yield staging
            if folder.exists():
                folder.rename(old)
            staging.rename(folder)
        except Exception:
            shutil.rmtree(staging, ignore_errors=True)  # its room may be needed
            raise
    shutil.rmtree(old, ignore_errors=True)


def check_free(folder: Path | str) -> None:
    """Check that a model can be written to a folder, which must be missing, empty, or hold a model and nothing else.

    Raises:
        CheckpointError: The path is a file, or the folder holds something else.
    """
    folder = expanded(folder).resolve()
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is a file of this name; name another folder for the model")
    inside = list(folder.iterdir())
    marks = {"prefrep.json", "config.json", "policy.json"}
    if inside and (not marks & {file.name for file in inside} or any(file.is_dir() and file.name not in FOLDERS for file in inside)):
        raise CheckpointError(f"{folder}: the folder holds other files than a model, which would be lost; name another folder")
