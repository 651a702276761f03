"""The exported folder: what travels between training, evaluation, scoring and post-training.

    config.json, model*.safetensors, tokenizer files   the language model, as `transformers` writes it (LoRA merged in)
    head.safetensors                                   the head
    prefrep.json                                       what weights cannot say: head, operator, normalisation, tau, template, EOS, recipe

A folder of *references* leaves the language model out and holds what was trained (adapters) beside the path of the base.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError, ConfigError
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead, PreferenceHead
from prefrep.nn.lora import LoRA
from prefrep.nn.skew import BlockSkew, GatedSkew, LearnedSkew, SkewOperator

FORMAT = 1
Weights = Literal["full", "reference"]


@dataclass
class PreferenceModel:
    """A model ready to score: the parts that a folder holds.

    Args:
        backbone: The language model.
        head: The head, fp32.
        tau: Temperature; scores divided by it are log-odds.
        encode: How text becomes token ids.
        tokenizer: The tokenizer.
        recipe: How it was trained, as plain data.
    """

    backbone: Backbone
    head: PreferenceHead
    tau: float
    encode: EncodeConfig
    tokenizer: PreTrainedTokenizerBase
    recipe: dict[str, Any]


def describe_head(head: PreferenceHead) -> dict[str, Any]:
    """A head's settings as plain data."""
    settings: dict[str, Any] = {"class": type(head).__name__}
    if isinstance(head, HybridHead):
        settings = describe_head(head.preference) | settings
    if isinstance(head, GPMHead):
        settings |= {"dim": head.dim, "normalize": head.normalize, "skew": {"class": type(head.skew).__name__}}
        if isinstance(head.skew, GatedSkew):
            settings["skew"]["variant"] = head.skew.variant
    if isinstance(head, PairHead):
        settings |= {"readout": head.readout, "answers": list(head.answers)}
    return settings


def make_head(settings: dict[str, Any], hidden_size: int) -> PreferenceHead:
    """The head of some settings, with fresh weights. The inverse of `describe_head`; KeyError: no such head, or settings are missing."""
    kind = settings["class"]
    if kind == "BTHead":
        return BTHead(hidden_size)
    if kind == "PairHead":
        first, second = settings["answers"]
        return PairHead(hidden_size, readout=settings["readout"], answers=(first, second))
    if kind in ("GPMHead", "HybridHead"):
        operators: dict[str, type[SkewOperator]] = {"BlockSkew": BlockSkew, "GatedSkew": GatedSkew, "LearnedSkew": LearnedSkew}
        options = dict(settings["skew"])
        operator = operators[options.pop("class")]
        skew = partial(operator, **options)
        head = GPMHead if kind == "GPMHead" else HybridHead
        return head(hidden_size, dim=settings["dim"], skew=skew, normalize=settings["normalize"])
    raise KeyError(f"unknown head {kind!r}")


@contextmanager
def replacing(folder: Path | str) -> Iterator[Path]:
    """A folder to write into that takes the place of `folder` when all went well; an older model there survives a failure, and a kill.

    Args:
        folder: Where the model shall be.

    Raises:
        CheckpointError: See `check_free`.
    """
    folder = Path(folder).expanduser().resolve()
    old, staging = (folder.with_name(folder.name + ending) for ending in (".old", ".partial"))
    if old.exists() and not folder.exists():  # killed between the two renames below
        old.rename(folder)
    check_free(folder)
    for left in (old, staging):
        shutil.rmtree(left, ignore_errors=True)
    staging.mkdir(parents=True)
    yield staging
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def check_free(folder: Path | str) -> None:
    """Makes sure that a model can be written to a folder: it is not there, is empty, or holds a model and nothing else.

    Raises:
        CheckpointError: Something else is there already.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: a file is there already; name another folder for the model")
    inside = list(folder.iterdir())
    marks, ours = {"prefrep.json", "config.json", "policy.json"}, "additional_chat_templates"  # the one folder that a tokenizer may write
    if inside and (not marks & {file.name for file in inside} or any(file.is_dir() and file.name != ours for file in inside)):
        raise CheckpointError(f"{folder}: the folder holds other things than a model, which would be lost; name another one")


def check_base(path: str, weights: Weights) -> None:
    """Makes sure that a model can be exported with a base that is named by its path.

    Raises:
        ConfigError: That base is an exported folder itself, which names another base.
    """
    if weights == "reference" and (Path(path).expanduser() / "prefrep.json").exists():
        raise ConfigError(f"{path} was exported itself and cannot be a base of references; save full weights, or copy that folder")


def save(
    folder: Path | str,
    backbone: Backbone,
    head: PreferenceHead,
    tau: float,
    encode: EncodeConfig,
    tokenizer: PreTrainedTokenizerBase,
    recipe: dict[str, Any],
    weights: Weights = "full",
) -> None:
    """Writes a folder; an older one at the same place is replaced only when the new one is complete.

    Args:
        folder: Where.
        backbone: The language model; LoRA is merged into a copy of its weights.
        head: The head.
        tau: Temperature of the scores.
        encode: How text becomes token ids.
        tokenizer: The tokenizer.
        recipe: Anything worth knowing later, as plain data (training configuration, metrics).
        weights: `full`: the whole language model. `reference`: what was trained of it, beside the path of the base; always so for a
            quantised base, whose weights cannot be merged.
    """
    if backbone.settings["quantize"] != "none":
        weights = "reference"
    base = backbone.recipe()
    check_base(base["path"], weights)
    trained = {name: t.detach().cpu().contiguous() for name, t in backbone.model.named_parameters() if t.requires_grad}
    with replacing(folder) as staging:
        if weights == "full":
            backbone.model.save_pretrained(staging, state_dict=backbone.merged_state())
            tokenizer.save_pretrained(staging)
        elif trained:
            save_file(trained, staging / "adapter.safetensors")
        save_file({name: t.detach().float().cpu().contiguous() for name, t in head.state_dict().items()}, staging / "head.safetensors")
        about = {
            "format": FORMAT,
            "head": describe_head(head),
            "tau": tau,
            "encode": asdict(encode),
            "eos": "every response ends in exactly one EOS and is read there",
            "weights": weights,
            "trained": sorted(trained) if weights == "reference" else [],
            "backbone": base,
            "recipe": recipe,
            "versions": {name: version(name) for name in ("prefrep", "torch", "transformers")},
        }
        (staging / "prefrep.json").write_text(json.dumps(about, indent=2) + "\n")


def load(folder: Path | str, dtype: str | None = None, attention: str = "auto", device: str | torch.device = "cpu") -> PreferenceModel:
    """Reads a folder.

    Args:
        folder: An exported folder.
        dtype: Type of the backbone's weights; None: as they were trained.
        attention: Attention kernel, see `Backbone`.
        device: Where the model goes.

    Raises:
        CheckpointError: There is no such folder, it is not an exported one, or its head is missing or does not fit.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; a run writes one to <default_root_dir>/export when it ends")
    about_file, head_file = folder / "prefrep.json", folder / "head.safetensors"
    if not about_file.exists():
        raise CheckpointError(f"{folder}: no prefrep.json, so this is not an exported preference model; export one with bin/prefrep fit")
    if not head_file.exists():
        raise CheckpointError(f"{folder}: head.safetensors is missing, and a random head would score at random; export the model again")
    try:
        about = json.loads(about_file.read_text())
        if about["format"] > FORMAT:
            raise CheckpointError(f"{folder}: written by a newer prefrep (format {about['format']}); update prefrep to read it")
        made, encode, tau, recipe = about["backbone"], EncodeConfig(**about["encode"]), float(about["tau"]), dict(about["recipe"])
        about["head"]["class"], about["weights"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{about_file}: damaged or edited ({type(error).__name__}: {error}); export the model again") from error
    options: dict[str, Any] = {"dtype": dtype or made["dtype"], "attention": attention, "trust_remote_code": made["trust_remote_code"]}
    if about["weights"] == "full":
        backbone = Backbone(path=str(folder), frozen=True, **options)
    else:
        lora = LoRA(**made["lora"]) if made["lora"] else None
        backbone = Backbone(
            path=made["path"],
            lora=lora,
            frozen=lora is None,
            quantize=made["quantize"],
            revision=made["revision"],
            gguf=made.get("gguf"),
            **options,
        )
        _fill(backbone.model, folder, about.get("trained"))
        backbone.requires_grad_(False)
    try:
        head = make_head(about["head"], backbone.hidden_size)
        head.load_state_dict(load_file(head_file))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{about_file}: damaged or edited ({type(error).__name__}: {error}); export the model again") from error
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: head.safetensors does not fit {about['head']} ({str(error).splitlines()[-1].strip()})") from error
    tokenizer = backbone.tokenizer()
    backbone.path = str(folder)
    return PreferenceModel(
        backbone=backbone.to(device).eval(),
        head=head.to(device).eval(),
        tau=tau,
        encode=encode,
        tokenizer=tokenizer,
        recipe={"head": about["head"], "tau": tau, "backbone": made, **recipe},
    )


def _fill(model: nn.Module, folder: Path, listed: list[str] | None) -> None:
    """Puts what was trained into a base model: everything that the folder lists, or nothing at all."""
    file = folder / "adapter.safetensors"
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad} if listed is None else set(listed)
    try:
        found: dict[str, Tensor] = load_file(file) if file.exists() else {}
        fits = wanted == set(found) and not model.load_state_dict(found, strict=False).unexpected_keys
    except (RuntimeError, SafetensorError):
        fits = False
    if not fits:
        raise CheckpointError(f"{folder}: adapter.safetensors is missing or does not fit its base; export the model again")
