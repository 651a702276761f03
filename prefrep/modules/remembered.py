"""Hidden states of a frozen language model, read once: heads are then trained on them in milliseconds a step.

A `Remembered` backbone stands where a frozen one would and looks states up; a batch's "token ids" are then row numbers. Heads, losses,
metrics and the trainer cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.trees import Datum, TreeBatch, collate
from prefrep.errors import DataError
from prefrep.nn.backbone import Backbone
from prefrep.records import Comparison, Messages, RankedResponses

Text = tuple[Messages, ...]  # what a sequence is made of: (prompt, response), or (prompt, first, second)


class Remembered(Backbone):
    """A backbone that looks its hidden states up. It cannot be exported: the head goes with the backbone that read the texts.

    Args:
        states: Hidden states [M, H].
    """

    def __init__(self, states: Tensor) -> None:
        nn.Module.__init__(self)  # nothing is loaded
        self.frozen, self.lora = True, None
        self.register_buffer("states", states.detach(), persistent=False)
        self.states: Tensor

    @property
    def hidden_size(self) -> int:
        """Width H of the hidden states."""
        return int(self.states.shape[-1])

    def forward(self, ids: Tensor, positions: Tensor, tree: Tensor, branch: Tensor, padded: bool) -> Tensor:
        """The states of some rows [R, L, H]; nothing else that a backbone is told matters."""
        return self.states[ids]

    def supports_trees(self) -> bool:
        """Nothing attends to anything here."""
        return True


@dataclass(frozen=True)
class Reading:
    """What a language model read.

    Args:
        states: Hidden states where each text is read [M, H], fp32.
        rows: Which text is in which row.
        layout: Whether texts hold one response or an ordered pair.
    """

    states: Tensor
    rows: dict[Text, int]
    layout: Literal["single", "pair"]

    def backbone(self) -> Remembered:
        """A backbone for batches of this reading."""
        return Remembered(self.states)

    def batch(self, comparisons: Sequence[Comparison]) -> TreeBatch:
        """All comparisons as one batch over the rows of this reading. Heads with a gate are not served: no prompt is remembered."""
        pairs = torch.tensor([[self.rows[text] for text in _texts(c, self.layout)] for c in comparisons])
        states, rows = torch.arange(len(self.states)), torch.zeros(1, len(self.states), dtype=torch.long)
        return TreeBatch(
            ids=states[None],
            positions=rows,
            tree=rows,
            branch=rows,
            end=states,
            prompt_end=torch.zeros_like(states),
            pairs=pairs,
            probability=torch.tensor([c.probability for c in comparisons]),
            margin=torch.tensor([c.margin for c in comparisons]),
            weight=torch.tensor([c.weight for c in comparisons]),
            labels=torch.zeros(0, 3, dtype=torch.long),
            sizes=torch.tensor([[len(self.states), len(comparisons)]]),
            padded=False,
        )


def read_texts(
    backbone: Backbone,
    comparisons: Iterable[Comparison],
    layout: Literal["single", "pair"],
    config: EncodeConfig | None = None,
    batch_tokens: int = 2048,
) -> Reading:
    """Read all texts of some comparisons, each once.

    Args:
        backbone: The language model.
        comparisons: What will be compared.
        layout: `single`: the responses of a prompt, as one tree. `pair`: both orders of each pair, as heads that read pairs want them.
        config: How text becomes token ids.
        batch_tokens: Tokens in a batch.

    Raises:
        DataError: A text is too long for `config.max_length` and its policy.
    """
    tokenizer = backbone.tokenizer()
    encoder = Encoder(tokenizer, config or EncodeConfig(), layout)
    texts: list[list[Text]] = []
    if layout == "single":
        groups: dict[Messages, dict[Messages, None]] = {}
        for c in comparisons:
            groups.setdefault(c.prompt, {}).update({c.chosen: None, c.rejected: None})
        texts = [[(prompt, response) for response in responses] for prompt, responses in groups.items()]
        encoded = encoder.encode_tables(RankedResponses(prompt, tuple(responses)) for prompt, responses in groups.items())
    else:
        unordered = {frozenset(_texts(c, layout)): c for c in comparisons}
        texts = [list(_texts(c, layout)) for c in unordered.values()]
        encoded = encoder.encode(unordered.values())
    data = [datum for _, datum in encoded]
    if None in data:
        raise DataError(f"a prompt or response is too long to be read ({encoder.report()}); raise max_length")
    ends = _read(backbone, cast("list[Datum]", data), pad_id(tokenizer), layout, batch_tokens)
    flat = [text for group in texts for text in group]
    return Reading(torch.cat(ends), {text: row for row, text in enumerate(flat)}, layout)


def _texts(c: Comparison, layout: Literal["single", "pair"]) -> tuple[Text, Text]:
    """The two texts of a comparison, in the order of an encoded datum."""
    if layout == "single":
        return (c.prompt, c.chosen), (c.prompt, c.rejected)
    return (c.prompt, c.chosen, c.rejected), (c.prompt, c.rejected, c.chosen)


@torch.no_grad()
def _read(backbone: Backbone, data: list[Datum], pad: int, layout: str, batch_tokens: int) -> list[Tensor]:
    """States of each datum's sequences, in the order of `data`. Data of like size share a batch."""
    backbone.eval()
    trees: Literal["trees", "padded"] = "trees" if backbone.supports_trees() else "padded"
    found: dict[int, Tensor] = {}
    order = sorted(range(len(data)), key=lambda i: data[i].size)
    what = "responses" if layout == "single" else "pairs"
    with tqdm(total=sum(datum.size for datum in data), desc=f"reading {what}", unit=" tokens", disable=None) as bar:
        while order:
            part = [order.pop()]
            while order and sum(data[i].size for i in part) + data[order[-1]].size <= batch_tokens:
                part.append(order.pop())
            batch = collate([data[i] for i in part], pad, trees, row_tokens=256)
            hidden = backbone(batch.ids, batch.positions, batch.tree, batch.branch, batch.padded).flatten(0, 1)
            ends = hidden[batch.end].float().split(batch.sizes[:, 0].tolist())
            found.update(zip(part, ends, strict=True))
            bar.update(sum(data[i].size for i in part))
    return [found[i] for i in range(len(data))]
