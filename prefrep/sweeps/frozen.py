"""Points on a frozen language model, which run one after the other in this process, so that it reads each text once for all of them.

They train like separate runs (`modules.remembered`) and write the same files.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from prefrep.annotators import Annotators
from prefrep.data.preference import PreferenceData
from prefrep.data.trees import TreeBatch
from prefrep.io.about import read_about
from prefrep.modules.preference import PreferenceModule
from prefrep.modules.remembered import Reading
from prefrep.nn.backbone import Backbone
from prefrep.nn.people import introduce
from prefrep.records import Comparison

WINDOW = 512  # comparisons per batch of hidden states


class Shared:
    """State that points on one frozen language model share: its weights, encoded data, hidden states of the validation set."""

    def __init__(self) -> None:
        self._backbone: tuple[str, Backbone] | None = None
        self._data: tuple[str, PreferenceData] | None = None
        self._batches: dict[tuple[str, str, str], list[TreeBatch]] = {}

    def train(
        self, module: PreferenceModule, data: PreferenceData, trainer: Trainer, backbone: str, data_key: str, checkpoint: Path | None
    ) -> None:
        """Train a model until it is exported; a finished training is not repeated.

        Args:
            module: The model, before `configure_model`.
            data: Its data; replaced by those of an earlier point with the same settings.
            trainer: Its trainer.
            backbone: Settings of the language model.
            data_key: Settings of the data without the seed.
            checkpoint: Checkpoint to resume from.
        """
        self._share(module, backbone)
        if self._data is None or self._data[0] != data_key:
            self._data = data_key, data
        self._data[1].seed = data.seed  # determines the order alone; otherwise it is part of the key
        try:
            trainer.fit(module, self._data[1], ckpt_path=checkpoint, weights_only=True)
        except SystemExit as stopped:  # what Lightning raises on Ctrl-C and SIGTERM
            raise KeyboardInterrupt from stopped

    def build(self, module: PreferenceModule, backbone: str) -> None:
        """Build a model for scoring on the shared language model."""
        self._share(module, backbone)
        module.configure_model()

    def _share(self, module: PreferenceModule, backbone: str) -> None:
        make, *others = module._make
        if self._backbone is None or self._backbone[0] != backbone:
            # Free the old one before the new one is loaded: data know their last trainer, and a trainer and its module each other.
            self._backbone, self._data, self._batches = None, None, {}
            gc.collect()
            self._backbone = backbone, make()
        ours = self._backbone[1]
        module._make = (lambda: ours, *others)  # type: ignore[assignment]
        module.shared = True

    def scores(
        self, module: PreferenceModule, export: Path, data: PreferenceData, comparisons: Sequence[Comparison],
        backbone: str, data_key: str, device: torch.device,
    ) -> list[float]:  # fmt: skip
        """Return the log-odds of the exported model, in nats, from cached hidden states.

        Args:
            module: A built model of the same shape, whose head gets the exported weights.
            export: The exported folder.
            data: The DataModule, which determines how texts are encoded.
            comparisons: The validation set.
            backbone: Settings of the language model.
            data_key: Settings of the data, and a digest of the validation set.
            device: Device of the head.
        """
        assert self._backbone is not None
        about = read_about(export)
        introduce(module.head, Annotators(about.annotators or {}))
        module.head.load_state_dict(load_file(export / "head.safetensors"))
        module.to(device).eval()
        known = (backbone, data_key, module.layout)
        if known not in self._batches:
            assert data.cache is not None, "points share what is kept"
            # `drop` is a choice for training data; scoring never drops a record, as in `Scorer`.
            truncation = "keep_end" if data.encode_config.truncation == "drop" else data.encode_config.truncation
            config = replace(data.encode_config, truncation=truncation)
            reading = Reading(self._backbone[1], module.layout, config, data.cache)
            self._batches[known] = [reading.batch(comparisons[i : i + WINDOW]) for i in range(0, len(comparisons), WINDOW)]
        scores: list[float] = []
        with torch.inference_mode():
            for number, batch in enumerate(self._batches[known]):
                there = batch.to(device)
                embedding, context = module.embeddings(module.hidden(there), there)
                if module.annotators is not None:
                    names = [each.annotator for each in comparisons[number * WINDOW : (number + 1) * WINDOW]]
                    context = context._replace(annotator=torch.tensor(module.annotators.indices(names), device=device))
                a, b = there.pairs.unbind(1)
                log_odds = module.head.compare(embedding[a], embedding[b], context) / about.tau
                scores += [float(score) for score in log_odds.cpu()]
        return scores
