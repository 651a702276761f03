"""Where training begins: a model that prefrep reads, on a backbone as the configuration wants it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefrep.data.render import Template
from prefrep.io import folder, hub, official
from prefrep.io.folder import PreferenceModel
from prefrep.io.language_model import Build, trusts
from prefrep.io.readers import READERS, check_kind, for_objective, kind_of
from prefrep.nn.heads import GPMHead, PreferenceHead
from prefrep.nn.skew import GatedSkew

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A model to train from.

    Args:
        model: Backbone, head, temperature and tokenizer.
        template: In which it reads; None: it does not say.
    """

    model: PreferenceModel
    template: Template | None


def start(
    name: str, build: Build, make_head: Callable[[int], PreferenceHead], tau: float, kind: str | None = None, objective: str = ""
) -> Start:
    """Read a model to train from.

    Args:
        name: Model in any layout that prefrep reads: a local folder, or a hub id, with `@revision` or without.
        build: Builds the backbone from `path`, `revision` and `gguf`. Python code of the model runs only if its configuration trusts it.
        make_head: Builds the configured head, which states what an official checkpoint leaves open: normalisation and gate.
        tau: The configured temperature, which an official checkpoint leaves open as well.
        kind: What it is, see `readers.opened`.
        objective: The one to go on from, of a model with several.

    Raises:
        CheckpointError: The model cannot be read.
        UsageError: There is no such kind, or the model has one objective.
        ConfigError: There is no such objective.
    """
    path, revision = hub.split(name)
    trusted = trusts(build)
    check_kind(kind)
    kind = kind or kind_of(path, revision, trusted)
    log.info("training starts from %s (%s)", name, kind)
    several = for_objective(name, kind, objective)
    if kind == "prefrep":
        model = folder.load(hub.fetched(name), build=build, trust_remote_code=trusted)
        return Start(model, model.encode.template)
    if kind == "official":
        configured = make_head(2)
        gate: official.Gate = "none"
        if isinstance(configured, GPMHead) and isinstance(configured.skew, GatedSkew):
            gate = configured.skew.variant
        normalize = isinstance(configured, GPMHead) and configured.normalize
        stated: dict[str, Any] = {"tau": tau, "normalize": normalize, "gate": gate, "template": "auto"}
        read = official.read(path, **stated, revision=revision, build=build, trust_remote_code=trusted)
        return Start(read, None)
    model = READERS[kind](path, revision=revision, build=build, trust_remote_code=trusted, **several)
    return Start(model, model.encode.template)
