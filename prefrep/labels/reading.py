"""Reads the hidden states of pairs, which are kept by content.

States are read and kept in windows of a fixed number of pairs, each whole or not at all. What a window holds does not depend on what else
was read, so a killed run goes on with the same bits. (`data.features` keeps states text by text; its batches depend on what is there
already, and so do the last bits of the states.)
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from prefrep.caching import cache_folder, find, keep
from prefrep.console import progress
from prefrep.data.encode import EncodeConfig
from prefrep.data.identity import identity
from prefrep.data.kept import about_encoding, code
from prefrep.data.mapped import Mapped
from prefrep.labels.states import States
from prefrep.modules.remembered import Reading
from prefrep.nn.backbone import Backbone
from prefrep.records import Comparison
from prefrep.room import saving
from prefrep.writers import leave

WINDOW = 32  # pairs whose states are kept together


def read(
    backbone: Backbone,
    layout: Literal["single", "pair"],
    pairs: Sequence[Comparison],
    config: EncodeConfig | None = None,
    cache: str = "auto",
) -> Iterator[States]:
    """Yield the states of pairs, window by window, reading those that are not kept.

    Args:
        backbone: The frozen language model.
        layout: What it reads, see `PreferenceHead`.
        pairs: The pairs; their labels do not matter.
        config: Settings of the encoder.
        cache: Folder of what is kept; `auto`: below prefrep's cache folder.

    Raises:
        DataError: A text is too long.
        Stopped: A signal came; all finished windows are kept.
    """
    config = config or EncodeConfig()
    folder = (cache_folder() if cache == "auto" else Path(cache).expanduser()) / "pairs"
    folder.mkdir(parents=True, exist_ok=True)
    device = next(backbone.parameters()).device.type
    backbone.eval().supports_trees()  # selects the attention kernel, a part of the identity
    about = {"states": identity(backbone, device), "text": about_encoding(backbone.tokenizer(), config, layout, "text"), "code": code()}
    for window in progress(_windows(pairs), "reading pairs", f"windows of {WINDOW} pairs"):
        texts = [(each.prompt, each.chosen, each.rejected, dict(each.template_kwargs)) for each in window]
        known = {**about, "pairs": hashlib.sha256(repr(texts).encode()).hexdigest()}
        with saving(folder):
            place = find(folder, known) or keep(folder, known, partial(_write, backbone, layout, window, config))
        kept = load_file(place / "states.safetensors")
        yield States(kept["ends"], kept["prompts"])
        leave()


def _windows(pairs: Sequence[Comparison]) -> Sequence[Sequence[Comparison]]:
    return Mapped(range(0, len(pairs), WINDOW), lambda begin: pairs[begin : begin + WINDOW])


def _write(backbone: Backbone, layout: Literal["single", "pair"], window: Sequence[Comparison], config: EncodeConfig, draft: Path) -> None:
    logging.getLogger("prefrep.data.remember").setLevel(logging.ERROR)  # it would report a cache of its own for every window
    with tempfile.TemporaryDirectory(prefix=".", dir=draft.parent) as apart:  # where the result goes: one disk may be full, not two
        batch = Reading(backbone, layout, config, apart).batch(window)
        assert batch.states is not None
        hidden, (a, b) = batch.states.flatten(0, 1).float(), batch.pairs.unbind(1)
        ends = torch.stack([hidden[batch.end[a]], hidden[batch.end[b]]], 1)
        save_file({"ends": ends, "prompts": hidden[batch.prompt_end[a]].contiguous()}, draft / "states.safetensors")
