"""Models in any layout that prefrep reads, by what their files say they are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prefrep.disk import expanded
from prefrep.errors import CheckpointError, UsageError
from prefrep.io import adapters, family, folder, hub, official, openrlhf, rlhflow, seqcls
from prefrep.io.catalogue import FAMILIES
from prefrep.io.folder import PreferenceModel
from prefrep.io.shards import find_file, read_config, tensor_names

log = logging.getLogger(__name__)

READERS: dict[str, Callable[..., PreferenceModel]] = {
    "seqcls": seqcls.read,
    "peft": adapters.read,
    "openrlhf": openrlhf.read,
    "rlhflow": rlhflow.read,
    "official": official.read,
    **{kind: partial(family.read, kind=kind) for kind in FAMILIES},
}
TITLES: dict[str, str] = {
    "seqcls": "a sequence classifier", "peft": "an adapter with a reward head", "openrlhf": "a reward model of OpenRLHF",
    "rlhflow": "a pair model that answers A or B", "official": "an official GPM checkpoint",
    **{kind: each.title for kind, each in FAMILIES.items()},
}  # fmt: skip


def kind_of(path: str, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """Return the layout of a model: `prefrep`, or a key of `READERS`.

    Args:
        path: Local folder or hub id.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run Python code from its folder, see `Backbone`.

    Raises:
        CheckpointError: There is no model, one without a head that compares, or one that is more than one thing.
    """
    if find_file(path, "prefrep.json", revision):
        return "prefrep"
    if adapters.has_adapter(path, revision):
        return "peft"
    config = read_config(path, revision, trust_remote_code)
    names = tensor_names(path, revision)
    found = [] if openrlhf.head_name(config) in names else family.fits(config, names)
    if len(found) > 1:
        raise CheckpointError(f"{path}: can be {' or '.join(found)}; say which with --as")
    if found:
        return found[0]
    if seqcls.is_classifier(config) and not family.nearest(config, names):
        return "seqcls"
    if openrlhf.head_name(config) in names:
        return "openrlhf"
    if official.VALUE in names:
        return "official"
    raise CheckpointError(
        f"{path}: a language model without a preference head that prefrep knows{family.nearest(config, names)}; begin with it through "
        "--model.backbone.path, give a policy's --reference, or say --as rlhflow or steamshp for models that answer A or B"
    )


def opened(
    name: str | Path,
    dtype: str | None = None,
    attention: str = "auto",
    device: Any = "cpu",
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    kind: str | None = None,
    objective: str = "",
) -> PreferenceModel:
    """Read a preference model in any layout, to score with it.

    Args:
        name: Local folder, or a hub id, with `@revision` or without.
        dtype: Type of the language model's weights; None: as stored.
        attention: Attention kernel, see `Backbone`.
        device: Device of the model.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run Python code from its folder, see `Backbone`.
        kind: What it is, a key of `READERS`; None: what its files say.
        objective: The one that counts, of a model with several.

    Raises:
        CheckpointError: It cannot be read, or leaves open what only `prefrep export --from` can be told.
        UsageError: There is no such kind.
        ConfigError: There is no such objective.
    """
    check_kind(kind)
    place = hub.fetched(name, revision)
    if kind is None and not hub.is_foreign(place):
        for_objective(name, "prefrep", objective)
        return folder.load(place, dtype, attention, device, trust_remote_code=trust_remote_code)
    found = kind or kind_of(str(place), trust_remote_code=trust_remote_code)
    log.info("%s: taken for %s (--as %s)", name, TITLES[found], found)
    if found == "official":
        raise CheckpointError(
            f"{name}: an official GPM checkpoint leaves open temperature, gate and template; read it with prefrep export --from official"
        )
    several = for_objective(name, found, objective)
    options = {"dtype": dtype, "attention": attention, "device": device, "trust_remote_code": trust_remote_code}
    return READERS[found](str(place), **several, **options)


def check_kind(kind: str | None) -> None:
    """Check that a kind is a key of `READERS`, or None. Raises UsageError: it is not."""
    if kind is not None and kind not in READERS:
        raise UsageError(f"--as {kind}: no such kind; there are {', '.join(READERS)}")


def for_objective(name: str | Path, kind: str, objective: str) -> dict[str, str]:
    """Return the arguments of a reader that name an objective. Raises UsageError: one is named, and models of this kind take none."""
    if kind in FAMILIES:
        return {"objective": objective}
    if objective:
        why = "is an exported folder, whose head has its objective already" if kind == "prefrep" else "has one objective"
        raise UsageError(f"--objective {objective}: {expanded(name)} {why}; leave the option out")
    return {}
