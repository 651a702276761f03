"""Models of the families in `io.catalogue`: recognised by configuration and tensors, and read without a line of their code."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig
from prefrep.data.render import Template
from prefrep.errors import CheckpointError, ConfigError
from prefrep.io.catalogue import FAMILIES, Family, Objectives
from prefrep.io.folder import PreferenceModel
from prefrep.io.foreign import Reading
from prefrep.io.shards import tensor_names
from prefrep.io.stacks import Stack, complete, stack, wanted
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import PairHead, PreferenceHead
from prefrep.nn.rewards import LayeredHead, MarkedPairHead, ObjectivesHead

ANSWERS = ("A", "B")
OUTPUT = "lm_head.weight"  # of T5 models that do not share it with their embeddings


def fits(config: Any, names: Collection[str]) -> list[str]:
    """Return the families that a model fits, by its configuration and the names of its tensors."""
    return [
        kind
        for kind, family in FAMILIES.items()
        if not family.only_as
        and (not family.types or config.model_type.startswith(family.types))
        and not complete(family.head, names)
        and all(any(name.startswith(begin) for name in names) for begin in family.needs)
    ]


def nearest(config: Any, names: Collection[str]) -> str:
    """Return what a model lacks for the family that it almost fits, as the end of a sentence; empty, if none is near."""
    for family in FAMILIES.values():
        lacking = complete(family.head, names)
        if family.head and (not family.types or config.model_type.startswith(family.types)) and wanted(family.head, names) and lacking:
            return f"; it looks like {family.title}, but lacks {lacking[0]}"
    return ""


def _instead(config: Any, names: Collection[str]) -> str:
    """Return what to do about a model that is not of the family that it was taken for."""
    found = fits(config, names)
    return f"its files say --as {' or '.join(found)}" if found else "download it again, or use --as"


def read(path: str, kind: str, *, max_length: int | None = None, objective: str = "", **options: Any) -> PreferenceModel:
    """Read a model of a family.

    Args:
        path: Local folder or hub id, with safetensors.
        kind: Key of `FAMILIES`.
        max_length: Longest sequence in tokens; None: that of its own code. The ends of longer answers are cut.
        objective: The one that counts, of a model with several; empty: all of them, as its authors weigh them.
        **options: See `Reading`.

    Raises:
        CheckpointError: Tensors or configuration do not fit the family, or there is no tokenizer.
        ConfigError: There is no such objective.
    """
    family, reading = FAMILIES[kind], Reading(**options)
    config, names = reading.config(path), tensor_names(path, reading.revision)
    spec = (*family.head, *(family.objectives.gate if family.objectives else ()))
    if family.types and not config.model_type.startswith(family.types):
        raise CheckpointError(
            f"{path}: {family.title} has model_type {family.types[0]}, and not {config.model_type}; {_instead(config, names)}"
        )
    if lacking := complete(spec, names):
        raise CheckpointError(f"{path}: {family.title} has {lacking[0]}, and this checkpoint has not; {_instead(config, names)}")
    extra = [name for name in (family.objectives.scale, family.objectives.mix) if name] if family.objectives else []
    tensors = reading.tensors(path, [*wanted(spec, names), *extra])
    backbone = reading.backbone(path, **_place(path, family, config))
    tokenizer = backbone.tokenizer()
    width = backbone.hidden_size
    head: PreferenceHead
    if family.kind == "answers":
        head = _answers(path, family, backbone, tokenizer, names)
    elif family.kind == "marked":
        made = stack(path, family.head, tensors, config, width // 3 * 2)
        head = MarkedPairHead(width, made.layers)
        made.fill(head.layers)
    else:
        made = stack(path, family.head, tensors, config, width)
        rows = _outputs(made)
        if family.objectives:
            gate = stack(path, family.objectives.gate, tensors, config, width)
            head = _weighed(path, family.objectives, made, gate, tensors, config, width, objective)
        elif rows > 1:
            head = _labels(path, family, made, config, width, objective)
        else:
            head = _reward(path, made, family, config, width)
    if objective and not isinstance(head, ObjectivesHead):
        raise ConfigError(f"{path}: {family.title} has one objective; leave --objective out")
    template: Template = family.template
    if template == "segments" and tokenizer.chat_template:
        template = "framed"
    if template == "framed" and not tokenizer.chat_template:
        if not family.chat:
            raise CheckpointError(f"{path}: its tokenizer has no chat template, in which {family.title} reads texts; add one")
        tokenizer.chat_template = family.chat
    encode = EncodeConfig(template, max_length or family.max_length, "keep_start")
    return reading.model(backbone, head, 1.0, encode, tokenizer, family.title)


def _place(path: str, family: Family, config: Any) -> dict[str, Any]:
    """Return where a family reads its language model, as arguments of `Backbone`."""
    pooling: str = family.pooling
    if pooling.startswith("@"):
        stated = str(getattr(config, pooling[1:], None) or "last")
        pooling = {"cls": "first"}.get(stated, stated)
        if pooling not in ("first", "mean", "last"):
            raise CheckpointError(f"{path}: {family.title} reads cls, first, mean or last, and config.json says {stated!r}")
    marks = [getattr(config, key, None) for key in family.marks]
    if not all(isinstance(mark, int) for mark in marks):
        raise CheckpointError(f"{path}: config.json of {family.title} has the ids {', '.join(family.marks)}; download it again")
    return {"pooling": pooling} | ({"marks": marks} if marks else {}) | ({"prefix": dict(family.prefix)} if family.prefix else {})


def _outputs(made: Stack) -> int:
    return int(next(name for name in reversed(made.layers) if name.startswith("linear")).split()[1])


def _reward(path: str, made: Stack, family: Family, config: Any, width: int) -> LayeredHead:
    """Return a head of one reward."""
    *before, last = made.layers
    if not last.startswith("linear"):
        raise CheckpointError(f"{path}: the head of {family.title} ends in {last}, and not in a linear layer")
    more: dict[str, Any] = {}
    if family.normaliser:
        cost = getattr(config, "score_type", "reward") == "cost"
        if getattr(config, "do_normalize", False):
            mean, variance = (_number(path, config, key) for key in ("mean", "var"))
            more = {"std": variance**0.5 + 1e-8} | ({} if cost else {"mean": mean})
        more["sign"] = -1 if cost else 1
    head = LayeredHead(width, before, **more)
    place = str(len(before))
    Stack(tuple(before), {name: tensor for name, tensor in made.tensors.items() if name.split(".")[0] != place}).fill(head.layers)
    with torch.no_grad():
        head.value_head.weight.copy_(made.tensors[f"{place}.weight"])
        if (bias := made.tensors.get(f"{place}.bias")) is not None:
            head.bias.copy_(bias)
    return head


def _number(path: str, config: Any, key: str) -> float:
    value = getattr(config, key, None)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(value, int | float) or (key == "var" and value <= 0):
        raise CheckpointError(f"{path}: config.json says do_normalize, and its {key} is {value!r:.40}, not one number; download it again")
    return float(value)


def _weighed(
    path: str, about: Objectives, made: Stack, gate: Stack, tensors: dict[str, Tensor], config: Any, width: int, objective: str
) -> ObjectivesHead:
    """Return a head of several objectives, with a gate."""
    count, rows = _outputs(gate), _outputs(made)
    stated = getattr(config, about.count[0], None) if about.count else None
    if about.count and stated is not None and stated != count * about.count[1]:
        raise CheckpointError(f"{path}: config.json says {about.count[0]} {stated}, and its gate has {count} outputs; download it again")
    if rows % count or (about.mix in tensors and list(tensors[about.mix].shape) != [count, count]):
        raise CheckpointError(f"{path}: {rows} outputs of its regression do not fit {count} objectives; download it again")
    names = about.names if len(about.names) == count else _label_names(config, count)
    key, default = about.temperature
    temperature = getattr(config, key, default) if key else default
    head = ObjectivesHead(
        width, names, made.layers, reduce=about.reduce, gate=gate.layers, gate_at=about.gate_at,
        gate_softmax=bool(getattr(config, about.softmax, False)) if about.softmax else True, temperature=float(temperature),
        objective=objective,
    )  # fmt: skip
    made.fill(head.layers)
    assert head.gate is not None
    gate.fill(head.gate)
    with torch.no_grad():
        for parameter, name in ((head.mix, about.mix), (head.scale, about.scale)):
            if name in tensors:
                parameter.copy_(tensors[name].reshape(parameter.shape))
    return head


def _labels(path: str, family: Family, made: Stack, config: Any, width: int, objective: str) -> ObjectivesHead:
    """Return the head of a classifier with several labels, of which one counts."""
    rows = _outputs(made)
    if rows != len(getattr(config, "id2label", None) or {}):
        raise CheckpointError(f"{path}: the head ends in {rows} outputs, and {family.title} has one; download it again, or use --as")
    names = _label_names(config, rows)
    if not objective:
        raise CheckpointError(
            f"{path}: it has {len(names)} outputs, and nothing says how they add up; choose one with --objective: {', '.join(names)}"
        )
    head = ObjectivesHead(width, names, made.layers, objective=objective)
    made.fill(head.layers)
    return head


def _label_names(config: Any, count: int) -> Sequence[str]:
    labels = getattr(config, "id2label", None) or {}
    found = [str(labels.get(i, "")) for i in range(count)] if len(labels) == count else []
    return found if len(set(found)) == count and all(found) else [f"objective-{i}" for i in range(count)]


def _answers(path: str, family: Family, backbone: Backbone, tokenizer: PreTrainedTokenizerBase, names: Collection[str]) -> PairHead:
    """Return a head that compares the logits of a T5 model's two answers."""
    head = PairHead(backbone.hidden_size, readout="tokens", answers=ANSWERS)
    model: Any = backbone.model
    tied = getattr(model.config, "scale_decoder_outputs", model.config.tie_word_embeddings)  # as config.json has it, of T5 and its kin
    if not tied and OUTPUT not in names:  # transformers would take the embeddings
        raise CheckpointError(f"{path}: {family.title} has {OUTPUT}, and this checkpoint has not; download it again, or use --as")
    rows = []
    for answer in ANSWERS:
        ids = tokenizer.encode(answer, add_special_tokens=False)
        if len(ids) != 1:
            raise CheckpointError(f"{path}: its tokenizer makes {len(ids)} tokens of {answer}; restore the one that belongs to it")
        rows.append(model.get_output_embeddings().weight.detach()[ids[0]].float())
        if not rows[-1].isfinite().all():
            raise CheckpointError(f"{path}: {OUTPUT} holds numbers that are not finite; download the checkpoint again")
    scale = cast(float, model.config.d_model**-0.5 if tied else 1.0)
    head.set_answer_rows(*(row * scale for row in rows))
    return head
