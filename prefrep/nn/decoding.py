"""Reading one token at a time: many responses to the same prompts, with one copy of each prompt's keys and values.

A step reads the next tokens of all responses as one row, so that everything but attention is a product over R tokens without padding.
Attention, in the kernel `trees` of `nn.attention`, reads each prompt's keys once for all its responses, and each response's own keys.

Shape letters: R responses that are read, H heads, G key-value heads, d width of a head; S slots of prompts with up to L tokens, C places of
responses with up to T tokens, W responses of the slot that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefrep.functional.trees import additive
from prefrep.nn.masks import per_layer_type, tree_biases

Prompts = Sequence[NDArray[np.int32]]
FIRST = 64  # tokens of each response that there is room for at first


class SharedCache:
    """Keys and values of prompts in slots, and of the responses that continue them in places.

    Args:
        layers: Number of layers.
        slots: S, how many prompts it holds.
        longest: L, length of the longest prompt.
        places: C, how many responses it holds.
        new: T, length of the longest response; memory is taken as responses grow.
    """

    def __init__(self, layers: int, slots: int, longest: int, places: int, new: int) -> None:
        self.sizes = slots, longest, places, new
        # Of prompts [S, G, L, d] and of responses [C, G, T, d], keys and values of each layer.
        self._kept: list[tuple[Tensor, Tensor, Tensor, Tensor] | None] = [None] * layers
        self._into: tuple[Tensor, Tensor, Tensor] | None = None
        self._step = _Step.none()

    def keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store keys and values [1, G, T, d] of the prompts that are being read."""
        assert self._into is not None
        source, slot, position = self._into
        if (kept := self._kept[layer]) is None:
            kept = self._kept[layer] = self._empty(key, value)
        for whole, new in zip(kept[:2], (key, value), strict=True):
            whole[slot, :, position] = new[0].transpose(0, 1)[source].to(whole.dtype)

    def _empty(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        slots, longest, places, new = self.sizes
        # Zeros, since a weight of 0 times an uninitialised NaN is NaN.
        prompt = [x.new_zeros(slots, x.shape[1], longest, x.shape[3], dtype=value.dtype) for x in (key, value)]
        own = [x.new_zeros(places, x.shape[1], min(new, FIRST), x.shape[3], dtype=value.dtype) for x in (key, value)]
        return prompt[0], prompt[1], own[0], own[1]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """Store the keys and values of a step, and return its attention.

        Args:
            layer: Index of the layer.
            query: [1, H, R, d].
            key: [1, G, R, d].
            value: [1, G, R, d].
            bias: Biases of prompts and responses [1, 1, 1, R (l + t)], see `read_tokens`.
            scaling: Factor of the logits.
            softcap: Cap of the logits; None: no cap.

        Returns:
            [1, R, H, d].
        """
        kept, step = self._kept[layer], self._step
        assert kept is not None
        if step.new > kept[2].shape[2]:
            kept = self._kept[layer] = (kept[0], kept[1], self._longer(kept[2]), self._longer(kept[3]))
        prompt_key, prompt_value, own_key, own_value = kept
        for whole, new in ((own_key, key), (own_value, value)):
            whole[step.places, :, step.at] = new[0].transpose(0, 1).to(whole.dtype)
        groups, width = key.shape[1], value.shape[3]
        q = (query[0].transpose(0, 1) * scaling).to(own_key.dtype).unflatten(1, (groups, -1))  # [R, G, H/G, d]
        logits = torch.cat(
            [
                step.of_slots(step.by_slot(q) @ prompt_key[:, :, : step.longest].mT, groups),
                step.of_places(step.by_place(q) @ own_key[:, :, : step.new].mT),
            ],
            -1,
        )
        if softcap:
            logits = torch.tanh(logits / softcap) * softcap
        weights = (logits + bias.view(len(q), 1, 1, -1)).softmax(-1).to(value.dtype)
        before, own = weights.split([step.longest, step.new], -1)
        mixed = step.of_slots(step.by_slot(before) @ prompt_value[:, :, : step.longest], groups)
        mixed = mixed + step.of_places(step.by_place(own) @ own_value[:, :, : step.new])
        return mixed.reshape(1, len(q), -1, width)

    def _longer(self, own: Tensor) -> Tensor:
        """Return keys or values with room for twice as many tokens."""
        now = own.shape[2]
        return torch.cat([own, own.new_zeros(*own.shape[:2], min(2 * now, self.sizes[3]) - now, own.shape[3])], 2)

    def compact(self, slots: Tensor, places: Tensor) -> None:
        """Keep some slots [S'] and places [C'], in the given order."""
        _, longest, _, new = self.sizes
        self.sizes = len(slots), longest, len(places), new
        for layer, kept in enumerate(self._kept):
            if kept is not None:
                self._kept[layer] = (kept[0][slots], kept[1][slots], kept[2][places], kept[3][places])


class _Step:
    """Where the R tokens of a step belong.

    Args:
        places: Place of each response [R].
        at: Number of its tokens before this one [R].
        slots: Slot of its prompt [R].
        sizes: S and C.
        longest: Tokens of the longest prompt in use.
        device: Where the step is read. Indices should be on the CPU: their shapes and bounds are asked for, and a GPU would be waited for.
    """

    def __init__(self, places: Tensor, at: Tensor, slots: Tensor, sizes: tuple[int, int], longest: int, device: torch.device) -> None:
        self.places, self.at, self.longest = places.to(device), at.to(device), longest
        self.new = int(at.max()) + 1 if len(at) else 0
        self._slots, self._count = sizes
        self._all = len(places) == self._count and bool((places == torch.arange(len(places), device=places.device)).all())
        # Position of each response among those of its slot, in a table of slots with equally many columns.
        order = slots.argsort(stable=True)
        counts = torch.bincount(slots, minlength=self._slots)
        within = torch.empty_like(slots)
        within[order] = torch.arange(len(slots), device=slots.device) - (counts.cumsum(0) - counts)[slots[order]]
        self._width = int(counts.max()) if len(slots) else 0
        cell = slots * self._width + within
        self._cell = cell.to(device)
        self._whole = self._slots * self._width == len(slots) and bool((cell == torch.arange(len(slots), device=slots.device)).all())

    @classmethod
    def none(cls) -> _Step:
        nobody = torch.zeros(0, dtype=torch.long)
        return cls(nobody, nobody, nobody, (0, 0), 0, nobody.device)

    def by_place(self, x: Tensor) -> Tensor:
        """[R, ..] -> [C, ..]."""
        return x if self._all else x.new_zeros(self._count, *x.shape[1:]).index_copy_(0, self.places, x)

    def of_places(self, x: Tensor) -> Tensor:
        """[C, ..] -> [R, ..]."""
        return x if self._all else x[self.places]

    def by_slot(self, x: Tensor) -> Tensor:
        """[R, G, H/G, n] -> [S, G, W H/G, n]."""
        cells = x if self._whole else x.new_zeros(self._slots * self._width, *x.shape[1:]).index_copy_(0, self._cell, x)
        found: Tensor = cells.unflatten(0, (self._slots, self._width)).transpose(1, 2).flatten(2, 3)
        return found

    def of_slots(self, x: Tensor, groups: int) -> Tensor:
        """[S, G, W H/G, n] -> [R, G, H/G, n]."""
        cells = x.view(self._slots, groups, self._width, -1, x.shape[3]).transpose(1, 2).flatten(0, 1)
        found: Tensor = cells if self._whole else cells[self._cell]
        return found


def read_prompts(backbone: Any, prompts: Prompts, slots: Sequence[int], cache: SharedCache) -> Tensor:
    """Read prompts into slots of a cache. What all of them begin with is read once.

    Args:
        backbone: A backbone with the kernel `trees`.
        prompts: N token sequences.
        slots: Slot of each.
        cache: Where their keys and values go.

    Returns:
        Last hidden state of each prompt [N, H].
    """
    device = next(backbone.parameters()).device
    shared = _shared(prompts)
    pieces = [prompts[0][:shared], *(ids[shared:] for ids in prompts)]
    sizes = np.array([len(piece) for piece in pieces])
    starts = np.cumsum(sizes) - sizes
    until = np.repeat(np.where(np.arange(len(pieces)) > 0, starts + sizes, sizes.sum()), sizes)
    positions = np.arange(sizes.sum()) - np.repeat(starts - np.where(np.arange(len(pieces)) > 0, shared, 0), sizes)
    source = np.concatenate([np.concatenate([np.arange(shared), at + np.arange(n)]) for at, n in zip(starts[1:], sizes[1:], strict=True)])
    lengths = np.array([len(ids) for ids in prompts])
    into = (source, np.repeat(np.array(slots), lengths), np.concatenate([np.arange(n) for n in lengths]))
    ids, places, past = (torch.from_numpy(x.astype(np.int64)).to(device) for x in (np.concatenate(pieces), positions, until))
    biases, index = tree_biases(_config(backbone), past, places, backbone.model.dtype)
    cache._into = tuple(torch.from_numpy(x.astype(np.int64)).to(device) for x in into)  # type: ignore[assignment]
    hidden = _hidden(backbone, ids, places, biases, block_index=index, shared_cache=cache)
    cache._into = None
    ends = torch.from_numpy(starts[1:] + sizes[1:] - 1).to(device)
    return hidden[ends]


def read_tokens(backbone: Any, ids: Tensor, cache: SharedCache, places: Tensor, at: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    """Read the next token of each of R responses.

    Args:
        backbone: A backbone with the kernel `trees`.
        ids: Tokens [R]; these and all indices may be on the CPU (see `_Step`).
        cache: Keys and values of everything before.
        places: Place of each response [R].
        at: Number of its tokens before this one [R].
        slots: Slot of its prompt [R].
        lengths: Length of its prompt [R].

    Returns:
        Hidden states [R, H].
    """
    device = next(backbone.parameters()).device
    step = cache._step = _Step(places, at, slots, (cache.sizes[0], cache.sizes[2]), int(lengths.max()), device)
    ids, at, lengths = ids.to(device), step.at, lengths.to(device)
    positions = lengths + at
    before, own = torch.arange(step.longest, device=ids.device), torch.arange(step.new, device=ids.device)

    def build(window: int | None) -> Tensor:
        seen = torch.cat([before < lengths[:, None], own <= at[:, None]], 1)
        if window is not None:
            where = torch.cat([before.expand(len(ids), -1), lengths[:, None] + own], 1)
            seen = seen & (positions[:, None] - where < window)
        # transformers passes masks of four axes on unchanged.
        return additive(seen, backbone.model.dtype).view(1, 1, 1, -1)

    return _hidden(backbone, ids, positions, per_layer_type(_config(backbone), build), shared_cache=cache)


def reads_like_the_model(backbone: Any, tolerance: float) -> bool:
    """Return whether reading token by token gives the hidden states of whole sequences, up to a relative error of each token.

    Models that keep a state of their own (recurrent ones), or whose layers have no keys of their own in the cache, do not: all their tokens
    differ. In half precision some tokens of SmolLM2-135M differ by 17 % and more from rounding alone, so there one token of each response
    may differ.

    Args:
        backbone: A backbone with the kernel `trees`.
        tolerance: Largest relative error.

    Raises:
        Exception: What the model raises.
    """
    device, config = next(backbone.parameters()).device, _config(backbone)
    # Ordinary tokens: the first ones of a vocabulary are often special, and magnify rounding.
    some = ((config.vocab_size // 2 + np.arange(8)) % config.vocab_size).astype(np.int32)
    prompts = [some[[0, 1, 2]], some[[0, 1, 3, 4, 5, 1]]]
    tails = torch.from_numpy(some[[[4, 6, 7, 2], [1, 0, 5, 3], [5, 3, 7, 6]]].astype(np.int64)).to(device)
    slots, lengths = torch.tensor([0, 0, 1], device=device), torch.tensor([3, 3, 6], device=device)
    cache = SharedCache(config.num_hidden_layers, 2, 6, 3, 4)
    first = read_prompts(backbone, prompts, [0, 1], cache)
    everyone, ended = torch.arange(3, device=device), torch.tensor([0, 2], device=device)  # a response can end before the others
    steps = [
        read_tokens(backbone, tails[rows, t], cache, rows, torch.full_like(rows, t), slots[rows], lengths[rows])
        for t, rows in enumerate([everyone, ended, ended, ended])
    ]
    for place, row in enumerate((0, 2)):
        whole = torch.cat([torch.from_numpy(prompts[place]).to(device), tails[row]])[None].long()
        expected = backbone.transformer(input_ids=whole, use_cache=False).last_hidden_state[0, -5:].float()
        found = torch.stack([first[place], steps[0][row], *(step[place] for step in steps[1:])]).float()
        errors = ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).sort().values
        if not bool(errors[-1 if backbone.model.dtype == torch.float32 else -2] <= tolerance):
            return False
    return True


def _hidden(backbone: Any, ids: Tensor, positions: Tensor, mask: Any, **more: Any) -> Tensor:
    result = backbone.transformer(input_ids=ids[None], attention_mask=mask, position_ids=positions[None], use_cache=False, **more)
    hidden: Tensor = result.last_hidden_state
    return hidden[0]


def _config(backbone: Any) -> Any:
    return backbone.model.config.get_text_config()


def _shared(prompts: Prompts) -> int:
    """Return the length of the common prefix, less than that of the shortest prompt."""
    length = min(len(ids) for ids in prompts) - 1
    for ids in prompts[1:]:
        different = np.flatnonzero(ids[:length] != prompts[0][:length])
        length = int(different[0]) if len(different) else length
    return length
