"""Language models that read both ways: which they are, how they are loaded, and what is read of a sequence.

Without a causal mask the state of a token depends on all that follows. So responses share no prefix, and each sequence is a row of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional

from prefrep.errors import ConfigError

Pooling = Literal["auto", "last", "first", "mean", "mask", "marked", "decoder"]
ENCODER_DECODERS = ("t5", "mt5", "umt5")
# Tokens of padding that cost about as much as a further call of the model: on CPUs a call costs little, on GPUs it waits for its kernels.
CALL = {"cpu": 64, "cuda": 4096}


def reads_both_ways(config: Any) -> bool:
    """Return whether a model has no causal mask: an encoder, or a T5 model, whose encoder reads the text.

    Args:
        config: Configuration of a model.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if config.model_type in ENCODER_DECODERS:
        return True
    # transformers lists most encoders as causal models, too, which they are only if their configuration says decoder.
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not any(
        getattr(config, name, False) for name in ("is_decoder", "is_encoder_decoder")
    )


def encoder_class(config: Any, pooling: Pooling) -> tuple[Any, dict[str, Any]]:
    """Return the class of `transformers` that loads a model which reads both ways, and arguments of its constructor.

    Args:
        config: Configuration of the model.
        pooling: What is read; only `decoder` needs the decoder of a T5 model.
    """
    from transformers import MODEL_MAPPING, AutoModel, AutoModelForSeq2SeqLM, AutoModelForTextEncoding

    if config.model_type in ENCODER_DECODERS:
        return (AutoModelForSeq2SeqLM if pooling == "decoder" else AutoModelForTextEncoding), {}
    # Nothing reads the pooling layers of BERT and RoBERTa, and most checkpoints lack them.
    kind: Any = MODEL_MAPPING[type(config)]
    pools = "add_pooling_layer" in inspect.signature(kind).parameters
    return AutoModel, {"add_pooling_layer": False} if pools else {}


def resolved(pooling: Pooling, marks: list[int] | None, config: Any) -> Pooling:
    """Return what is read of each sequence; `auto` depends on the model.

    Causal models are read at their last token, encoders at their first one, and T5's, which has no [CLS], at the mean.

    Args:
        pooling: The setting.
        marks: Ids of the marked tokens.
        config: Configuration of the model.

    Raises:
        ConfigError: The model cannot be read there.
    """
    both, t5 = reads_both_ways(config), config.model_type in ENCODER_DECODERS
    if (pooling == "marked") != bool(marks):
        raise ConfigError("Backbone.marks lists the ids of the tokens that pooling: marked reads; give both or neither")
    if pooling == "auto":
        return "last" if not both else "mean" if t5 else "first"
    if pooling == "first" and not both:
        raise ConfigError("Backbone.pooling first reads a token that a causal model writes before it has read the text; use last or mean")
    if pooling == "mask" and not both:
        raise ConfigError("Backbone.pooling mask reads the mask token of an encoder, and this model is causal; use last")
    if pooling == "decoder" and not t5:
        raise ConfigError("Backbone.pooling decoder reads the decoder of a T5 model, and this model has none; use auto")
    return pooling


def pooled(hidden: Tensor, ids: Tensor, mask: Tensor, pooling: Pooling, marks: list[int] | None = None) -> Tensor:
    """Return the state that is read of each row, at every position of the row.

    Whoever reads a row at its last token, as all of prefrep does, then reads what `pooling` says.

    Args:
        hidden: Hidden states [R, L, H], one sequence per row.
        ids: Token ids [R, L].
        mask: 1 for tokens, 0 for padding [R, L].
        pooling: `first` token, `mean` of all tokens, the last `mask` token, or the first occurrences of the `marked` tokens, side by side.
        marks: Ids of M marked tokens; of `mask`, that of the mask token.

    Returns:
        [R, L, H], of marked tokens [R, L, M H].

    Raises:
        ConfigError: A row lacks a marked token.
    """
    if pooling in ("last", "decoder"):
        return hidden
    if pooling == "first":
        found = hidden[:, :1]
    elif pooling == "mean":
        weight = mask[..., None].to(hidden.dtype)
        found = (hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)
    else:
        rows = torch.arange(len(ids), device=ids.device)
        there = [(ids == mark) & mask.bool() for mark in marks or []]
        if lacking := [mark for mark, each in zip(marks or [], there, strict=True) if not each.any(1).all()]:
            raise ConfigError(
                f"a text lacks the marked token {lacking[0]}: its template does not write it, the tokenizer does not know it, or a "
                "max_length below that of the model's authors cuts it off"
            )
        # A count has its first maximum at the last token that counts.
        places = [(each.cumsum(1) if pooling == "mask" else each.int()).argmax(1) for each in there]
        found = torch.cat([hidden[rows, place] for place in places], -1)[:, None]
    return found.expand(-1, hidden.shape[1], -1)


def by_length(lengths: Sequence[int], call: int) -> list[list[int]]:
    """Return rows in groups of similar length, longest first.

    Args:
        lengths: Number of tokens of each row.
        call: Tokens of padding that a group may have, over all its rows.

    Example:
        >>> by_length([5, 90, 6, 100], call=10)
        [[3, 1], [2, 0]]
    """
    groups: list[list[int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padding += lengths[groups[-1][0]] - lengths[row] if groups else 0
        if not groups or padding > call:
            groups.append([])
            padding = 0
        groups[-1].append(row)
    return groups


def read(model: nn.Module, ids: Tensor, mask: Tensor, types: Tensor | None, pooling: Pooling) -> Tensor:
    """Return the last hidden states of rows of one sequence each, padded on the right.

    Rows do not see each other, so that the model reads them in groups of similar length, without most of the padding. States and gradients
    are those of one call. Sharded weights are gathered in every call, of which all processes must make as many: they make one.

    Args:
        model: The model.
        ids: Token ids [R, L].
        mask: 1 for tokens, 0 for padding [R, L].
        types: Segment of each token [R, L]; None: the model has no segments.
        pooling: Of `decoder`, the state from which a T5 model predicts its first token, at every position.

    Returns:
        [R, L, H]; zeros behind the longest row of a group.
    """
    lengths = mask.sum(1).tolist()
    one = any(isinstance(part, FSDPModule) for part in model.modules())  # weights that are gathered at the moment do not show it
    groups = by_length(lengths, ids.numel() if one else CALL["cpu" if ids.device.type == "cpu" else "cuda"])
    found = []
    for rows in groups:
        part = torch.tensor(rows, device=ids.device)
        longest = lengths[rows[0]]
        short = None if types is None else types[part, :longest]
        states = _read(model, ids[part, :longest], mask[part, :longest], short, pooling)
        found.append(functional.pad(states, (0, 0, 0, ids.shape[1] - longest)))
    order = torch.tensor([row for rows in groups for row in rows], device=ids.device)
    return torch.cat(found)[order.argsort()]


def _read(model: nn.Module, ids: Tensor, mask: Tensor, types: Tensor | None, pooling: Pooling) -> Tensor:
    """Return what `read` does, by one call of the model.

    Positions are the model's own business: those of RoBERTa begin after its pad id, others have none.
    """
    more = {} if types is None else {"token_type_ids": types}
    if pooling != "decoder":
        found: Tensor = model(input_ids=ids, attention_mask=mask, **more).last_hidden_state
        return found
    whole: Any = model
    begin = ids.new_full((len(ids), 1), whole.config.decoder_start_token_id)
    states = whole.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    first: Tensor = whole.decoder(
        input_ids=begin, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
    ).last_hidden_state
    return first.expand(-1, ids.shape[1], -1)


def segments(config: Any, ids: Tensor, separator: int | None) -> Tensor | None:
    """Return the segment of each token: 1 after the first separator. None: the model tells no segments apart.

    Args:
        config: Configuration of the model.
        ids: Token ids [R, L].
        separator: Id that ends a segment.
    """
    if separator is None or getattr(config, "type_vocab_size", 0) < 2:
        return None
    ends = (ids == separator).int()
    return ((ends.cumsum(1) - ends) > 0).long()
