"""Fingerprints of model folders."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(folder: str | Path) -> str:
    """Return a digest of an exported folder, so that scores of an older model at the same path are not taken for those of a newer one.

    Every byte but those of the model card is read, since training a frozen backbone or LoRA changes few of them. Loading reads the same
    bytes, so they are in the page cache.

    Args:
        folder: The folder, with its sub-folders; a hub id, with `@revision` or without; or a bundled model.
    """
    from prefrep.io.hub import fetched  # programs import this module to parse their options
    from prefrep.nn.bundled import resolve

    folder, found = fetched(resolve(str(folder))), hashlib.sha256()
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file() and file.relative_to(folder) != Path("README.md"):
            with file.open("rb") as stream:
                found.update(f"{file.relative_to(folder)}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()
