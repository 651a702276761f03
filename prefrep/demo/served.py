"""The model of `prefrep serve --demo`: the quickstart's GPM of d = 2, trained on cycles of three, and the cycles as examples.

It is expressive and not general: it has learnt these cycles, so that a person can look at them. Training on them drives log-odds beyond 20;
the temperature then makes the median one `SURE`, so that a table shows more than certainties. It is trained once and kept in the cache,
under a name that follows from everything it depends on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from prefrep.caching import cache_folder
from prefrep.data.encode import EncodeConfig
from prefrep.demo.quickstart import Settings, comparisons, train
from prefrep.disk import replace_json
from prefrep.io import folder
from prefrep.locks import writing
from prefrep.modules.remembered import Reading
from prefrep.nn.backbone import Backbone
from prefrep.records import Comparison, text

log = logging.getLogger(__name__)

NAME = "cycles"
SETTINGS = Settings("bundled:smollm2-135m", prompts=36, held_out=36, steps=2000, seed=0)
EXAMPLES = 8
SURE = 0.9  # median probability of a comparison that the model has learnt
LONGEST = 420  # characters of an answer that is easy to compare at a glance


def prepare(settings: Settings = SETTINGS) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return the folder of the model by name, and questions for the page; trains the model where it is not kept yet.

    Args:
        settings: Those of the quickstart.

    Raises:
        CheckpointError: The language model cannot be read.
        BlockingIOError: Another process is training it.
    """
    key = hashlib.sha256(json.dumps([settings, SURE, version("prefrep"), version("transformers")]).encode()).hexdigest()[:12]
    place = cache_folder() / "demo" / key
    model = place / "export"
    if not (place / "examples.json").exists():
        with writing(place, folder=True):
            _train(settings, place, model)
    examples: list[dict[str, Any]] = json.loads((place / "examples.json").read_text())
    return {NAME: str(model)}, examples


def _train(settings: Settings, place: Path, model: Path) -> None:
    log.info("training the demonstration's model once; it is kept in %s", place)
    cyclic = comparisons(settings)["cyclic"]
    backbone = Backbone(path=settings.model, frozen=True)
    batch = Reading(backbone, "single").batch(cyclic)
    module = train("gpm_d2", backbone, batch, settings.steps, settings.seed)
    with torch.no_grad():
        temperature = float(module(batch).abs().median()) / math.log(SURE / (1 - SURE))
    tau = module.loss.tau * temperature
    recipe = {"module": type(module).__name__, "quickstart": settings._asdict(), "trained_on": "cycles of three"}
    folder.save(model, backbone, module.head, tau, EncodeConfig(), backbone.tokenizer(), recipe, weights="reference")
    replace_json(place / "examples.json", examples_of(cyclic))  # last: it says that the rest is there


def examples_of(cyclic: list[Comparison]) -> list[dict[str, Any]]:
    """Return cycles as questions, the shortest answers first: {"prompt", "responses"}, where each response beats the next.

    Args:
        cyclic: Comparisons in threes, a > b, b > c, c > a.
    """
    found = [
        {"prompt": text(first.prompt), "responses": [text(each.chosen) for each in (first, second, third)]}
        for first, second, third in zip(cyclic[0::3], cyclic[1::3], cyclic[2::3], strict=True)
    ]
    found.sort(key=lambda each: max(map(len, each["responses"])))
    return [each for each in found if max(map(len, each["responses"])) <= LONGEST][:EXAMPLES] or found[:EXAMPLES]
