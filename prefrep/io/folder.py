"""Exported folders: the models that training hands to evaluation, scoring and post-training.

    config.json, model*.safetensors, tokenizer files   the language model, as `transformers` writes it (LoRA merged in)
    head.safetensors                                   the head
    README.md                                          the model card
    prefrep.json                                       what weights leave open: head, operator, normalisation, tau, template, EOS, recipe

A folder of *references* has the path of the base and the trained weights (adapters) in place of the language model.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from prefrep.annotators import Annotators
from prefrep.data.encode import EncodeConfig
from prefrep.disk import expanded
from prefrep.errors import CheckpointError, ConfigError, DataError
from prefrep.io.about import FORMAT, About, damaged, read_about
from prefrep.io.about import Weights as Weights
from prefrep.io.card import card
from prefrep.io.heads import describe_head, make_head
from prefrep.io.language_model import Build, rebuilt
from prefrep.io.replacing import replacing
from prefrep.io.shards import find_file
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import PreferenceHead
from prefrep.nn.loading import UNTRUSTED, check_tokens
from prefrep.nn.people import annotators_of, introduce
from prefrep.nn.quietly import quietly
from prefrep.parts import MissingPartError

log = logging.getLogger(__name__)


@dataclass
class PreferenceModel:
    """A model ready to score: the contents of a folder.

    Args:
        backbone: The language model.
        head: The head, float32.
        tau: Temperature; scores divided by it are log-odds.
        encode: How text becomes token ids.
        tokenizer: The tokenizer.
        recipe: Training configuration, as plain data.
    """

    backbone: Backbone
    head: PreferenceHead
    tau: float
    encode: EncodeConfig
    tokenizer: PreTrainedTokenizerBase
    recipe: dict[str, Any]


def check_base(path: str, weights: Weights) -> None:
    """Check that an exported folder can refer to a base by its path.

    Raises:
        ConfigError: The base is an exported folder itself.
    """
    if weights == "reference" and (expanded(path) / "prefrep.json").exists():
        raise ConfigError(f"{path}: an exported folder cannot be the base of references; save full weights, or copy that folder")


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
    """Write a folder, which replaces an older one atomically.

    Args:
        folder: Output folder.
        backbone: The language model; LoRA is merged into a copy of its weights.
        head: The head.
        tau: Temperature of the scores.
        encode: How text becomes token ids.
        tokenizer: The tokenizer.
        recipe: Training configuration and metrics, as plain data.
        weights: `full`: the whole language model. `reference`: its trained weights and the path of the base. A quantised base is always
            saved as a reference, since LoRA cannot be merged into its weights.

    Raises:
        CheckpointError: See `check_free`.
        ConfigError: See `check_base`.
    """
    if backbone.settings["quantize"] != "none":
        weights = "reference"
    base = backbone.recipe()
    check_base(base["path"], weights)
    known = annotators_of(head)
    trained = {name: t.detach().cpu().contiguous() for name, t in backbone.model.named_parameters() if t.requires_grad}
    with replacing(folder) as staging:
        if weights == "full":
            with quietly():
                backbone.model.save_pretrained(staging, state_dict=backbone.merged_state())
            tokenizer.save_pretrained(staging)
        elif trained:
            save_file(trained, staging / "adapter.safetensors")
        _save_head(staging, head)
        about = {
            "format": FORMAT,
            "head": describe_head(head),
            "tau": tau,
            "encode": asdict(encode),
            "eos": "every response ends in exactly one EOS and is read there",
            "weights": weights,
            "trained": sorted(trained) if weights == "reference" else [],
            **({} if known is None else {"annotators": dict(known.labels)}),
            "backbone": base,
            "recipe": recipe,
            "versions": {name: version(name) for name in ("prefrep", "torch", "transformers")},
        }
        # What a download has to bring.
        about["files"] = {str(file.relative_to(staging)): file.stat().st_size for file in sorted(staging.rglob("*")) if file.is_file()}
        (staging / "prefrep.json").write_text(json.dumps(about, indent=2) + "\n")
        (staging / "README.md").write_text(card(about))


def save_head(folder: Path | str, source: Path, head: PreferenceHead, note: dict[str, Any]) -> None:
    """Write a folder that has another head than an exported one, and the same language model.

    Its files are hard links where the file system has them, so that a model for one more person needs no room.

    Args:
        folder: Output folder, which may be the source.
        source: An exported folder.
        head: The head, of the same class and arguments.
        note: Added to the recipe.

    Raises:
        CheckpointError: See `check_free`.
    """
    about = json.loads((source / "prefrep.json").read_text())
    about["recipe"] |= note
    if (known := annotators_of(head)) is not None:
        about["annotators"] = dict(known.labels)
    with replacing(folder) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True, copy_function=_link)
        for name in ("head.safetensors", "prefrep.json", "README.md"):
            (staging / name).unlink(missing_ok=True)  # writing into a link would change the source
        _save_head(staging, head)
        about["files"]["head.safetensors"] = (staging / "head.safetensors").stat().st_size
        (staging / "prefrep.json").write_text(json.dumps(about, indent=2) + "\n")
        (staging / "README.md").write_text(card(about))


def _save_head(folder: Path, head: PreferenceHead) -> None:
    save_file({name: t.detach().float().cpu().contiguous() for name, t in head.state_dict().items()}, folder / "head.safetensors")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def load(
    folder: Path | str,
    dtype: str | None = None,
    attention: str = "auto",
    device: str | torch.device = "cpu",
    build: Build | None = None,
    trust_remote_code: bool = False,
) -> PreferenceModel:
    """Load a folder. Nothing in it makes code run, unless the caller trusts it.

    Args:
        folder: An exported folder.
        dtype: Type of the backbone's weights; None: the type they were trained in.
        attention: Attention kernel, see `Backbone`.
        device: Device of the model.
        build: Builds the language model from `path`, `revision` and `gguf`, for training; it gets the weights of the folder.
        trust_remote_code: Run Python code from the folder of the language model, see `Backbone`. What the folder says about it does not
            count.

    Raises:
        CheckpointError: The folder is missing or not an exported one, a value in it is wrong, or its parts do not fit each other.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; a training run writes one to <default_root_dir>/export when it ends")
    head_file = folder / "head.safetensors"
    if not (folder / "prefrep.json").exists():
        raise CheckpointError(f"{folder}: no prefrep.json, so this is not an exported preference model; export one with prefrep fit")
    if not head_file.exists():
        raise CheckpointError(f"{folder}: head.safetensors is missing, and a random head would score at random; export the model again")
    about = read_about(folder)
    options = {"dtype": dtype or about.backbone["dtype"], "attention": attention, "trust_remote_code": trust_remote_code}
    backbone = _backbone(folder, about, options, build)
    try:
        head = make_head(about.head, backbone.hidden_size)
        introduce(head, Annotators(about.annotators or {}))
    except MissingPartError as error:
        raise CheckpointError(f"{folder / 'prefrep.json'}: {error}") from error
    except (ConfigError, DataError, RuntimeError) as error:  # torch: sizes that no memory holds
        raise damaged(folder, error) from error
    try:
        head.load_state_dict(load_file(head_file))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: head.safetensors does not fit {about.head} ({str(error).splitlines()[-1].strip()})") from error
    if not all(tensor.isfinite().all() for tensor in head.state_dict().values()):
        raise CheckpointError(f"{folder}: head.safetensors holds numbers that are not finite; train or export the model again")
    tokenizer = backbone.tokenizer()
    check_tokens(str(folder), backbone, tokenizer)
    backbone.path = str(folder)
    return PreferenceModel(
        backbone=backbone.to(device).eval(),
        head=head.to(device).eval(),
        tau=about.tau,
        encode=about.encode,
        tokenizer=tokenizer,
        recipe={"head": about.head, "tau": about.tau, "backbone": _plain(about.backbone), **about.recipe},
    )


def _backbone(folder: Path, about: About, options: dict[str, Any], build: Build | None) -> Backbone:
    """Return the language model of a folder. Raises CheckpointError: it cannot be read, or needs code that the caller does not trust."""
    made = about.backbone
    place = {name: made[name] for name in ("pooling", "marks") if made.get(name) is not None}
    if about.weights == "full":
        if (folder / "adapter_config.json").exists():  # transformers would load the base that it names instead of the folder
            raise CheckpointError(f"{folder}: adapter_config.json names another model than the one here; export the model again")
        whole: dict[str, Any] = {"path": str(folder), "revision": None, "gguf": None}
        backbone = Backbone(frozen=True, **whole, **options, **place) if build is None else build(**whole, **place)
    else:
        path, lora = made.get("path", ""), made.get("lora")
        for file, kind in (("prefrep.json", "an exported folder"), ("adapter_config.json", "an adapter, whose weights are elsewhere")):
            if find_file(path, file, made.get("revision")):
                raise CheckpointError(f"{folder}: its base {path} is {kind}, which no export refers to; export the model again")
        log.info("%s: the weights of its language model are those of %s", folder, path)
        kept = {name: made[name] for name in ("quantize", "revision", "gguf") if name in made} | place
        try:
            backbone = Backbone(path=path, lora=lora, frozen=lora is None, **kept, **options)
        except RuntimeError as error:  # torch: adapters that no memory holds
            raise damaged(folder, error) from error
        _fill(backbone.model, folder, about.trained)
        backbone.requires_grad_(False)
        if build is not None:
            base = {name: made.get(name) for name in ("path", "revision", "gguf")} | place
            backbone = rebuilt(build, base, backbone.merged_state(), str(folder))
    if made.get("trust_remote_code") and not backbone.settings["trust_remote_code"] and getattr(backbone.model.config, "auto_map", None):
        raise CheckpointError(f"{folder}: was trained with {UNTRUSTED}")
    return backbone


def _plain(made: dict[str, Any]) -> dict[str, Any]:
    return made | {"lora": asdict(made["lora"]) if made.get("lora") else None}


def _fill(model: nn.Module, folder: Path, listed: list[str] | None) -> None:
    """Load the trained weights into a base model: all that `prefrep.json` lists, or none.

    Raises:
        CheckpointError: Weights are missing or do not fit the base.
    """
    file = folder / "adapter.safetensors"
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad} if listed is None else set(listed)
    try:
        found: dict[str, Tensor] = load_file(file) if file.exists() else {}
        fits = wanted == set(found) and not model.load_state_dict(found, strict=False).unexpected_keys
    except (OSError, RuntimeError, SafetensorError):
        fits = False
    if not fits:
        raise CheckpointError(f"{folder}: adapter.safetensors is missing or does not fit its base; export the model again")
