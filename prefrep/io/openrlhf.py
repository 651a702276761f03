"""Reward models of OpenRLHF (openrlhf/models/model.py at 3c3be62): a language model and a head of one row, read at a final EOS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.errors import CheckpointError
from prefrep.io.folder import PreferenceModel
from prefrep.io.foreign import Reading
from prefrep.io.probes import PROBES, ours
from prefrep.io.seqcls import bradley_terry

PREFIX = "score"  # of the head, unless `value_head_prefix` in config.json says otherwise


def read(
    path: str | Path,
    *,
    max_length: int = 2048,
    **options: Any,
) -> PreferenceModel:
    """Read a reward model of OpenRLHF as a Bradley-Terry model with tau 1.

    Texts are tokenised with its recipe (template `openrlhf`) where prefrep's own differs, which is where the chat template does not end in
    the EOS or leaves out the BOS. Longer texts lose the ends of their responses, as there. `mean` and `std` in its configuration shift and
    scale rewards for PPO and are not applied: the loss saw the rewards without them.

    Args:
        path: Local folder or hub id, with safetensors.
        max_length: Maximum sequence length in tokens.
        **options: See `Reading`.

    Raises:
        CheckpointError: There is no head of one row, or the tokenizer has no chat template and other ends than prefrep's.
    """
    reading = Reading(**options)
    config = reading.config(str(path))
    name = head_name(config)
    width = config.get_text_config().hidden_size
    found = reading.tensors(str(path), (name,))
    if name not in found or list(found[name].shape) != [1, width]:
        shapes = {key: list(tensor.shape) for key, tensor in found.items()}
        raise CheckpointError(f"{path}: a reward model of OpenRLHF has {name} [1, {width}], found {shapes or 'none'}")
    backbone = reading.backbone(str(path))
    tokenizer = backbone.tokenizer()
    encode = EncodeConfig("auto" if tokenizer.chat_template else "plain", max_length, "keep_start")
    if tokenizer.chat_template:
        theirs = replace(encode, template="openrlhf")
        encoders = [Encoder(tokenizer, each, "single") for each in (encode, theirs)]
        if any(ours(encoders[0], *probe) != ours(encoders[1], *probe) for probe in PROBES):
            encode = theirs
    return bradley_terry(reading, backbone, found[name], encode, tokenizer, "OpenRLHF")


def head_name(config: Any) -> str:
    """Return the name of the head's weight, by a configuration of OpenRLHF."""
    return f"{getattr(config, 'value_head_prefix', None) or PREFIX}.weight"
