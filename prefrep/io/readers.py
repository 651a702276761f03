"""Models in any layout that prefrep reads, by what their files say they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from prefrep.errors import CheckpointError
from prefrep.io import adapters, official, openrlhf, rlhflow, seqcls
from prefrep.io.folder import PreferenceModel
from prefrep.io.shards import find_file, read_config, tensor_names

Foreign = Literal["seqcls", "peft", "openrlhf", "rlhflow", "official"]
READERS: dict[Foreign, Callable[..., PreferenceModel]] = {
    "seqcls": seqcls.read,
    "peft": adapters.read,
    "openrlhf": openrlhf.read,
    "rlhflow": rlhflow.read,
    "official": official.read,
}


def kind_of(path: str, revision: str | None = None, trust_remote_code: bool = False) -> Literal["prefrep"] | Foreign:
    """Return the layout of a model.

    Args:
        path: Local folder or hub id.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run Python code from its folder, see `Backbone`.

    Raises:
        CheckpointError: There is no model, or one without a head that compares.
    """
    if find_file(path, "prefrep.json", revision):
        return "prefrep"
    if adapters.has_adapter(path, revision):
        return "peft"
    config = read_config(path, revision, trust_remote_code)
    if seqcls.is_classifier(config):
        return "seqcls"
    names = tensor_names(path, revision)
    if openrlhf.head_name(config) in names:
        return "openrlhf"
    if official.VALUE in names:
        return "official"
    raise CheckpointError(
        f"{path}: a language model without a preference head; begin with it through --model.backbone.path, or read RLHFlow's pair models "
        "with prefrep export --from rlhflow"
    )
