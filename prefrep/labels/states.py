"""Hidden states of pairs, kept by content, and heads that are trained on them in seconds.

States are read and kept in windows of a fixed number of pairs, each whole or not at all. What a window holds does not depend on what else
was read, so a killed run goes on with the same bits. (`data.features` keeps states text by text; its batches depend on what is there
already, and so do the last bits of the states.)

Letters: `P` pairs, `H` hidden size.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefrep.cache import cache_folder, find, keep
from prefrep.console import progress
from prefrep.data.encode import EncodeConfig
from prefrep.data.firsts import Ints
from prefrep.data.identity import identity
from prefrep.data.kept import about_encoding, code
from prefrep.data.mapped import Mapped
from prefrep.data.trees import TreeBatch
from prefrep.errors import DataError
from prefrep.modules import on_states
from prefrep.modules.preference import PreferenceModule
from prefrep.modules.remembered import Reading
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import PreferenceHead
from prefrep.nn.losses import PreferenceLoss
from prefrep.records import Comparison
from prefrep.room import saving
from prefrep.writers import leave

WINDOW = 32  # pairs whose states are kept together
STEP = 8192  # largest number of pairs of an optimizer step


class States(NamedTuple):
    """Hidden states of pairs, fp32.

    Args:
        ends: States at the last tokens of (chosen, rejected), or of the two orders of a pair, [P, 2, H].
        prompts: States at the last token of the prompt [P, H].
    """

    ends: Tensor
    prompts: Tensor

    @property
    def pairs(self) -> int:
        """P."""
        return len(self.ends)

    def at(self, index: Sequence[int] | NDArray[Any]) -> States:
        """Return the states of some pairs."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        return States(self.ends[chosen], self.prompts[chosen])

    def loaded(self) -> States:
        """Return the same, see `Spooled`."""
        return self

    def batch(self, probability: Tensor, margin: Tensor | None = None, weight: Tensor | None = None) -> TreeBatch:
        """Return a batch that a module trains on without its backbone.

        Args:
            probability: P(chosen > rejected) [P].
            margin: Margins in log-odds [P]; None: 0.
            weight: Weights [P]; None: 1.
        """
        count = len(self.ends)
        rows = torch.arange(count)
        nothing = torch.zeros(count, 3, dtype=torch.long)
        return TreeBatch(
            ids=nothing, positions=nothing, until=nothing + 1,
            end=torch.stack([3 * rows + 1, 3 * rows + 2], 1).flatten(), prompt_end=(3 * rows).repeat_interleave(2),
            pairs=torch.arange(2 * count).view(-1, 2), probability=probability.float(),
            margin=torch.zeros(count) if margin is None else margin.float(),
            weight=torch.ones(count) if weight is None else weight.float(),
            labels=torch.zeros(0, 3, dtype=torch.long), sizes=torch.tensor([[2, 1]]).repeat(count, 1), padded=True, tokens=3 * count,
            states=torch.cat([self.prompts[:, None], self.ends], 1),
        )  # fmt: skip


class StatesFile:
    """States of pairs in a temporary file, behind each other."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._hidden = self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, states: States) -> None:
        """Append the states of more pairs."""
        self._count, self._hidden = self._count + states.pairs, states.prompts.shape[-1]
        with saving(Path(tempfile.gettempdir())):
            self._file.write(torch.cat([states.ends.flatten(1), states.prompts], 1).contiguous().numpy().tobytes())
            self._file.flush()

    def read(self, places: Ints) -> States:
        """Return the states at some places. Raises DataError: the file lost some."""
        found = torch.empty(len(places), 3, self._hidden)
        size, file = 12 * self._hidden, self._file.fileno()
        for row, place in zip(found.view(-1, 3 * self._hidden).numpy(), places.tolist(), strict=True):
            if os.preadv(file, [row], place * size) != size:
                raise DataError(f"a temporary file in {tempfile.gettempdir()} was cut off; run the same command again")
        return States(found[:, :2], found[:, 2])


class Spooled(NamedTuple):
    """States of pairs that lie in a file, for more pairs than memory holds.

    Args:
        file: The file.
        places: Place of each pair in it [P].
    """

    file: StatesFile
    places: Ints

    @property
    def pairs(self) -> int:
        """P."""
        return len(self.places)

    def at(self, index: Sequence[int] | NDArray[Any]) -> Spooled:
        """Return the states of some pairs, which stay where they are."""
        return Spooled(self.file, self.places[index])

    def loaded(self) -> States:
        """Return the states in memory."""
        return self.file.read(self.places)

    @property
    def ends(self) -> Tensor:
        """See `States`, in memory."""
        return self.loaded().ends

    @property
    def prompts(self) -> Tensor:
        """See `States`, in memory."""
        return self.loaded().prompts


def digest(states: States | Spooled) -> str:
    """Return a digest of states."""
    found = hashlib.sha256()
    for part in _parts(states.pairs):
        for tensor in states.at(part).loaded():
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def _parts(pairs: int) -> Iterator[Ints]:
    """Yield the indices of pairs in turn, as many at a time as a step takes."""
    return (np.arange(begin, min(begin + STEP, pairs)) for begin in range(0, pairs, STEP))


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
        place = find(folder, known) or keep(folder, known, partial(_write, backbone, layout, window, config))
        kept = load_file(place / "states.safetensors")
        yield States(kept["ends"], kept["prompts"])
        leave()


def _windows(pairs: Sequence[Comparison]) -> Sequence[Sequence[Comparison]]:
    return Mapped(range(0, len(pairs), WINDOW), lambda begin: pairs[begin : begin + WINDOW])


def _write(backbone: Backbone, layout: Literal["single", "pair"], window: Sequence[Comparison], config: EncodeConfig, draft: Path) -> None:
    logging.getLogger("prefrep.data.remember").setLevel(logging.ERROR)  # it would report a cache of its own for every window
    with tempfile.TemporaryDirectory() as apart:
        batch = Reading(backbone, layout, config, apart).batch(window)
        assert batch.states is not None
        hidden, (a, b) = batch.states.flatten(0, 1).float(), batch.pairs.unbind(1)
        ends = torch.stack([hidden[batch.end[a]], hidden[batch.end[b]]], 1)
        save_file({"ends": ends, "prompts": hidden[batch.prompt_end[a]].contiguous()}, draft / "states.safetensors")


class Kept(nn.Module):
    """What a model needs of a backbone whose states are kept.

    Args:
        hidden_size: H.
    """

    frozen, lora = True, None

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size


def train(
    states: States | Spooled,
    probability: Tensor,
    head: Callable[[int], PreferenceHead],
    loss: Callable[[], PreferenceLoss],
    steps: int,
    lr: float,
    seed: int,
    *,
    margin: Tensor | None = None,
    weight: Tensor | None = None,
    module: type[PreferenceModule] = PreferenceModule,
) -> PreferenceModule:
    """Train a head on kept states with AdamW. Every step takes all pairs, or of more than `STEP` so many, drawn anew in each epoch.

    Args:
        states: States of the pairs.
        probability: P(chosen > rejected) [P].
        head: Builds the head.
        loss: Builds the loss.
        steps: Optimizer steps.
        lr: Learning rate at the start of its cosine.
        seed: Seed of the head.
        margin: See `States.batch`.
        weight: See `States.batch`.
        module: Kind of model.

    Returns:
        The model; it takes batches of `States.batch`.
    """
    optimizer = partial(torch.optim.AdamW, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    size = states.at([0]).loaded().prompts.shape[-1]
    built = module(lambda: cast(Backbone, Kept(size)), head, loss, optimizer=optimizer)

    def batch(index: Ints) -> TreeBatch:
        labels = (None if each is None else each[index] for each in (margin, weight))
        return states.at(index).loaded().batch(probability[index], *labels)

    if states.pairs <= STEP:
        return on_states.train(built, [batch(np.arange(states.pairs))] * steps, seed)
    return on_states.train(built, _Drawn(batch, states.pairs, steps, seed), seed)


class _Drawn(Sequence[TreeBatch]):
    """Batches of `STEP` pairs; every epoch deals the pairs anew, and leaves those over that fill no batch."""

    def __init__(self, batch: Callable[[Ints], TreeBatch], pairs: int, steps: int, seed: int) -> None:
        self._batch, self._pairs, self._steps, self._seed = batch, pairs, steps, seed
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: Any) -> Any:
        if not 0 <= step < self._steps:
            raise IndexError(step)
        epoch, place = divmod(step, self._pairs // STEP)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._pairs)
        return self._batch(np.sort(self._order[place * STEP : (place + 1) * STEP]))


@torch.no_grad()
def log_odds(model: PreferenceModule, states: States | Spooled) -> Tensor:
    """Return the log-odds of chosen over rejected in nats, float64 [P]."""
    parts = (states.at(part).loaded() for part in _parts(states.pairs))
    return torch.cat([model(part.batch(torch.ones(part.pairs))) for part in parts]).double()
