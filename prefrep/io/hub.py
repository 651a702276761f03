"""The Hugging Face Hub: exported folders that come from there and go there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from prefrep.disk import expanded, replace_text
from prefrep.errors import CheckpointError, first_line
from prefrep.io.about import damaged
from prefrep.io.card import card

_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
MESSAGE = "Upload a prefrep model"
# Never pickles, nor code.
FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md")


def split(name: str | Path) -> tuple[str, str | None]:
    """Split `owner/name@revision` into hub id and revision; a local path has none.

    Args:
        name: Local path or hub id.
    """
    text = str(name)
    place, at, revision = text.rpartition("@")
    if at and not expanded(text).exists() and _ID.fullmatch(place):
        return place, revision
    return text, None


def is_hub_id(name: str | Path) -> bool:
    """Return whether a name means a model on the hub: it has the form of one, and no local file has this path."""
    return not expanded(name).exists() and _ID.fullmatch(split(name)[0]) is not None


def fetched(name: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a model, downloaded from the hub if need be.

    Args:
        name: Local folder, or a hub id, with `@revision` or without.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: The model cannot be downloaded.
    """
    if not is_hub_id(name):
        return expanded(name)
    repo, written = split(name)
    try:
        folder = Path(snapshot_download(repo, revision=revision or written, allow_patterns=list(FILES)))
    except Exception as error:  # of its HTTP library, which differs between versions of the hub's client
        raise CheckpointError(
            f"{name}: no such folder, and it cannot be had from the hub ({first_line(error)}); check the name, the network and the token"
        ) from error
    if not is_foreign(folder):
        check_complete(folder, str(name))
    return folder


def is_foreign(folder: Path) -> bool:
    """Return whether a folder is a model of another program, which lists no files, and not a part of an exported one."""
    ours = any((folder / name).exists() for name in ("prefrep.json", "head.safetensors"))
    return not ours and any((folder / name).exists() for name in ("config.json", "adapter_config.json"))


def check_complete(folder: Path, name: str) -> None:
    """Check that a download brought all that was exported: without a network, the hub's cache also hands out what it has of a folder.

    Args:
        folder: The folder.
        name: Of the model, for the error message.

    Raises:
        CheckpointError: A file is missing or has another size.
    """
    try:
        about = json.loads((folder / "prefrep.json").read_text())
        wanted = {str(file): int(size) for file, size in about.get("files", {}).items()}  # older folders do not list them
    except OSError:
        raise CheckpointError(
            f"{name}: the hub has no prefrep.json there, so this is not an exported preference model, or only a part of it was downloaded; "
            "read models of other programs with prefrep export --from"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{name}: prefrep.json is damaged ({first_line(error)}); download it again") from error
    for file, size in wanted.items():
        place = folder / file
        found = place.stat().st_size if place.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} of {size} bytes"
            raise CheckpointError(f"{name}: {file} {what}, so the download is incomplete; download it again")


def push(folder: str | Path, repo: str) -> str:
    """Upload a model folder; the repository is made if there is none. The model card of an exported folder then names the repository.

    Args:
        folder: The folder.
        repo: `owner/name`.

    Returns:
        Address of the commit.

    Raises:
        CheckpointError: The folder is damaged, or the hub refuses or cannot be reached.
    """
    about = Path(folder) / "prefrep.json"
    if about.exists():  # else the layout has a README.md of its own
        try:
            text = card(json.loads(about.read_text()), repo)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(Path(folder), error) from error
        replace_text(Path(folder) / "README.md", text)
    check(repo)
    try:
        return str(HfApi().upload_folder(folder_path=Path(folder), repo_id=repo, commit_message=MESSAGE).commit_url)
    except Exception as error:  # of its HTTP library, which differs between versions of the hub's client
        raise CheckpointError(
            f"{repo}: the upload of {folder} failed ({first_line(error)}); push it again with: "
            f"prefrep export --model {folder} --push {repo}"
        ) from error


def check(repo: str) -> None:
    """Check that models can be pushed to a repository, which is made if there is none.

    Raises:
        CheckpointError: It is no hub id, or the hub refuses or cannot be reached.
    """
    if not _ID.fullmatch(repo):
        raise CheckpointError(f"{repo}: not the name of a repository on the hub; write owner/name")
    try:
        HfApi().create_repo(repo, exist_ok=True)
    except Exception as error:  # of its HTTP library, which differs between versions of the hub's client
        raise CheckpointError(
            f"{repo}: cannot push there ({first_line(error)}); log in with `hf auth login`, and check owner and name"
        ) from error
