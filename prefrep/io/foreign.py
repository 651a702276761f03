"""Models in the layouts of other programs: how they are read, and what they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig
from prefrep.errors import ConfigError
from prefrep.io.folder import PreferenceModel
from prefrep.io.heads import describe_head
from prefrep.io.language_model import Build
from prefrep.io.shards import read_config, read_tensors, stored_dtype
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import PreferenceHead


def check_last(backbone: Backbone) -> None:
    """Check that a model reads the last token of a text, as the layouts of other programs do.

    Raises:
        ConfigError: It reads something else.
    """
    if not backbone.shares_prompts:
        raise ConfigError(
            f"this model reads {'both ways' if backbone.both_ways else 'its text'}, pooling {backbone.pooling}, and other layouts read the "
            "last token of a causal model; use the exported folder itself"
        )


@dataclass(frozen=True)
class Reading:
    """How a model is read; the options that all readers share.

    Args:
        dtype: Type of the language model's weights; None: as stored. Heads are float32.
        attention: Attention kernel, see `Backbone`.
        device: Device of the model.
        revision: Branch, tag or commit of a hub id.
        build: Builds the language model instead, for training, see `Build`; dtype, attention and trust are then its own.
        trust_remote_code: Run Python code from the checkpoint, see `Backbone`.
    """

    dtype: str | None = None
    attention: str = "auto"
    device: str | torch.device = "cpu"
    revision: str | None = None
    build: Build | None = None
    trust_remote_code: bool = False

    def config(self, path: str) -> Any:
        """Return the configuration of a checkpoint. Raises CheckpointError: it cannot be read."""
        return read_config(path, self.revision, self.trust_remote_code)

    def tensors(self, path: str, names: Sequence[str]) -> dict[str, Tensor]:
        """Return those of the named tensors that a checkpoint has. Raises CheckpointError: it cannot be read."""
        return read_tensors(path, tuple(names), self.revision)

    def backbone(self, path: str, **place: Any) -> Backbone:
        """Return the language model of a checkpoint, frozen unless `build` decides.

        Args:
            path: Of the checkpoint.
            **place: `pooling`, `marks` and `prefix` of `Backbone`, where they are not its defaults.

        Raises:
            CheckpointError: It cannot be read.
        """
        if self.build is not None:
            return self.build(path=path, revision=self.revision, gguf=None, **place)
        options: dict[str, Any] = {"dtype": self.dtype or stored_dtype(self.config(path))}
        options |= {"attention": self.attention, "trust_remote_code": self.trust_remote_code}
        return Backbone(path=path, frozen=True, revision=self.revision, **options, **place)

    def model(
        self, backbone: Backbone, head: PreferenceHead, tau: float, encode: EncodeConfig, tokenizer: PreTrainedTokenizerBase, source: str
    ) -> PreferenceModel:
        """Return a preference model of the parts that were read.

        Args:
            backbone: The language model.
            head: Its head.
            tau: Temperature.
            encode: How text becomes token ids.
            tokenizer: The tokenizer.
            source: The layout, for the recipe.
        """
        return PreferenceModel(
            backbone=backbone.to(self.device).eval(),
            head=head.to(self.device).eval(),
            tau=tau,
            encode=encode,
            tokenizer=tokenizer,
            recipe={"read from": source, "head": describe_head(head), "tau": tau, "backbone": backbone.recipe()},
        )
