"""The official GPM layout (github.com/general-preference/general-preference-model), in both directions.

A Hugging Face folder of the language model whose safetensors hold two more tensors: `value_head.weight` [D, H] (Bradley-Terry: [1, H]) and,
for a gated operator, `prompt_head.weight` [D/2, H]. Dimension and gate follow from the tensors. Temperature, normalisation and gate variant
are not stored, and the published sources contradict each other, so the caller has to state them. For the released models the published
example says: tau 0.1, normalised, gate `softmax`, template `official`.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError, ConfigError
from prefrep.functional.skew import GateVariant
from prefrep.io.folder import PreferenceModel
from prefrep.io.foreign import Reading, check_last
from prefrep.io.replacing import replacing
from prefrep.nn.heads import BTHead, GPMHead, PreferenceHead
from prefrep.nn.quietly import quietly
from prefrep.nn.skew import BlockSkew, GatedSkew

VALUE, PROMPT = "value_head.weight", "prompt_head.weight"
ARCHITECTURE = "CustomRewardModel"

Gate = Literal["none", "softmax", "scaled_softmax", "nonnegative"]


def read(
    path: str | Path,
    *,
    tau: float,
    normalize: bool,
    gate: Gate,
    template: Literal["official", "auto"],
    max_length: int = 4096,
    **options: Any,
) -> PreferenceModel:
    """Read a checkpoint in the official layout.

    Args:
        path: Local folder or hub id.
        tau: Temperature; scores divided by it are log-odds.
        normalize: Normalise embeddings to length 1. False for Bradley-Terry models, whose rewards are never normalised.
        gate: Gate variant; `none` for checkpoints without a prompt head, and only for those.
        template: `official`: the tokenisation recipe of the released models (`EncodeConfig`). `auto`: prefrep's own.
        max_length: Maximum sequence length in tokens; 4096 in the official example.
        **options: See `Reading`; in the official code heads have the dtype of the model.

    Raises:
        CheckpointError: The checkpoint is missing, has no value head, or contradicts the arguments.
        ConfigError: tau is not positive.
    """
    if not tau > 0:
        raise ConfigError(f"tau must be positive, got {tau}")
    reading = Reading(**options)
    reading.config(str(path))  # a wrong path has its own sentence
    tensors = reading.tensors(str(path), (VALUE, PROMPT))
    if VALUE not in tensors:
        raise CheckpointError(f"{path}: no {VALUE} in its safetensors, so this is not a checkpoint in the official GPM layout")
    backbone = reading.backbone(str(path))
    head = _head(str(path), tensors, backbone.hidden_size, normalize, gate)
    return reading.model(backbone, head, float(tau), EncodeConfig(template, max_length), backbone.tokenizer(), "official layout")


def write(folder: str | Path, model: PreferenceModel) -> dict[str, Any]:
    """Write a checkpoint in the official layout.

    The official programs tokenise with their own recipe (template `official`), so they score differently if the model was trained with
    another template. Heads stay float32 whatever the dtype of the language model.

    Args:
        folder: Output folder; an older model there is replaced.
        model: A Bradley-Terry model, or a general preference model with canonical or gated blocks.

    Returns:
        The arguments that `read` needs to restore the model; its truncation becomes `keep_end`.

    Raises:
        ConfigError: The layout cannot express the model.
    """
    head, backbone = model.head, model.backbone
    check_last(backbone)
    if backbone.settings["quantize"] != "none":
        raise ConfigError("the official layout holds plain weights and this language model is quantised; load it with quantize: none")
    if type(head) is GPMHead and type(head.skew) in (BlockSkew, GatedSkew):  # classes derived from them may compare in another way
        gate: Gate = head.skew.variant if isinstance(head.skew, GatedSkew) else "none"
        normalize = head.normalize
    elif type(head) is BTHead:
        gate, normalize = "none", False
    else:
        kind = type(head.skew).__name__ if type(head) is GPMHead else type(head).__name__
        raise ConfigError(f"the official layout has no place for {kind}; it holds BTHead, and GPMHead with BlockSkew or GatedSkew")
    template = model.encode.template
    if template == "chat" or (template == "plain" and not model.tokenizer.chat_template):
        template = "auto"  # equivalent
    if template not in ("official", "auto"):
        raise ConfigError(
            f"the official layout has no place for the template '{template}' of this model; it expresses chat, auto and official"
        )
    heads = {VALUE: head.value_head.weight}
    if isinstance(head, GPMHead) and isinstance(head.skew, GatedSkew):
        heads[PROMPT] = head.skew.prompt_head.weight
    state = backbone.merged_state() | {name: weight.detach().float().cpu().contiguous() for name, weight in heads.items()}
    with replacing(folder) as staging:
        with quietly():
            backbone.model.save_pretrained(staging, state_dict=state)
        model.tokenizer.save_pretrained(staging)
        file = staging / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": [ARCHITECTURE]}, indent=2) + "\n")
    return {"tau": model.tau, "normalize": normalize, "gate": gate, "template": template, "max_length": model.encode.max_length}


def _head(path: str, tensors: dict[str, Tensor], hidden_size: int, normalize: bool, gate: Gate) -> PreferenceHead:
    """Return the head of the tensors. Raises CheckpointError: they contradict the arguments."""
    value, prompt = tensors[VALUE], tensors.get(PROMPT)
    if value.ndim != 2 or value.shape[1] != hidden_size:
        raise CheckpointError(f"{path}: {VALUE} is {list(value.shape)}, but the language model's hidden size is {hidden_size}")
    dim = value.shape[0]
    if dim > 1 and dim % 2:
        raise CheckpointError(f"{path}: {VALUE} has {dim} rows; a preference embedding has an even number, a Bradley-Terry model one")
    if prompt is None and gate != "none":
        raise CheckpointError(f"{path}: there is no {PROMPT} for the gate {gate}, so this checkpoint is not gated; set gate to none")
    if prompt is not None and gate == "none":
        raise CheckpointError(
            f"{path}: it holds {PROMPT}, so its scores are gated by the prompt; name the variant (the released models: softmax)"
        )
    if prompt is not None and (dim == 1 or list(prompt.shape) != [dim // 2, hidden_size]):
        raise CheckpointError(f"{path}: {PROMPT} is {list(prompt.shape)}, which does not fit {VALUE} {list(value.shape)}")
    if dim == 1:
        if normalize:
            raise CheckpointError(f"{path}: Bradley-Terry rewards (one row in {VALUE}) are not normalised; set normalize to false")
        bt = BTHead(hidden_size)
        bt.load_state_dict({VALUE: value})
        return bt
    variant: GateVariant | None = None if gate == "none" else gate
    skew = BlockSkew if variant is None else partial(GatedSkew, variant=variant)
    head = GPMHead(hidden_size, dim=dim, skew=skew, normalize=normalize)
    head.load_state_dict({VALUE: value} | ({} if prompt is None else {f"skew.{PROMPT}": prompt}))
    return head
