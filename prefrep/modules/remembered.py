"""Many heads on one frozen language model, which reads each text once (`data.features`).

On a `PreferenceData`, `train_each` equals as many separate runs, at little more than the cost of one pass over the text. `Reading` serves
comparisons that are not in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.features import Features, root
from prefrep.data.identity import identity
from prefrep.data.preference import PreferenceData
from prefrep.data.remember import look_up, remember
from prefrep.data.trees import Datum, Layout, TreeBatch
from prefrep.errors import ConfigError, DataError
from prefrep.modules.preference import PreferenceModule
from prefrep.nn.backbone import Backbone
from prefrep.records import Comparison


class Point(NamedTuple):
    """One model of a grid.

    Args:
        model: Builds the model from a factory of its backbone, such as `partial(GeneralPreference, head=partial(GPMHead, dim=8))`.
        seed: Seed of everything random except the order of the data, which has its own.
    """

    model: Callable[[Callable[[], Backbone]], PreferenceModule]
    seed: int = 0


class Trained(NamedTuple):
    """One trained model of a grid.

    Args:
        name: Name of the model.
        module: The model, with the shared backbone, which stays on its device; the head is on the CPU.
        metrics: Last value of each logged metric.
    """

    name: str
    module: PreferenceModule
    metrics: dict[str, float]


def train_each(points: Mapping[str, Point], backbone: Backbone, data: PreferenceData, trainer: Callable[[], Trainer]) -> Iterator[Trained]:
    """Train models one after the other on one frozen backbone.

    Weights and metrics equal those of separate runs with the same seeds, data and trainer.

    Args:
        points: The models, by name.
        backbone: The language model, frozen.
        data: The data. The first model reads the texts, unless the cache holds their hidden states.
        trainer: Builds a trainer for each model.

    Yields:
        Each trained model.

    Raises:
        ConfigError: The backbone is not frozen.
    """
    if not backbone.frozen:
        raise ConfigError("train_each shares one backbone among models, so none may train it; set frozen: true")
    for name, (make, seed) in points.items():
        seed_everything(seed, verbose=False)
        module, run = make(lambda: backbone), trainer()
        module.shared = True  # its backbone stays on its device between fits
        run.fit(module, data)
        yield Trained(name, module, {key: float(value) for key, value in run.callback_metrics.items()})


class Reading:
    """Batches of comparisons that carry the hidden states of a frozen language model.

    Args:
        backbone: The language model.
        layout: What the language model reads: `single` responses, or `pair`s in both orders.
        config: Settings of the encoder.
        cache: Folder of cached hidden states, see `PreferenceData`.
    """

    def __init__(
        self, backbone: Backbone, layout: Literal["single", "pair"], config: EncodeConfig | None = None, cache: str = "auto"
    ) -> None:
        self._backbone = backbone.eval()
        self._device = next(backbone.parameters()).device
        self._tokenizer = backbone.tokenizer()
        self._encoder = Encoder(self._tokenizer, config or EncodeConfig(), layout)
        self._layout: Layout = "trees" if backbone.supports_trees() else "padded"  # selects the attention kernel, a part of the identity
        self._root = root(cache)
        self._about = identity(backbone, self._device.type)
        self._features = Features(self._root, self._about)

    def batch(self, comparisons: Sequence[Comparison]) -> TreeBatch:
        """Return comparisons as one batch; the language model reads texts that are not cached.

        Raises:
            DataError: A text exceeds `max_length` under the configured `truncation`.
        """
        if (about := identity(self._backbone, self._device.type)) != self._about:  # the weights have changed
            self._about, self._features = about, Features(self._root, about)
        data: list[Datum] = []
        for record, datum in self._encoder.encode(comparisons):
            if datum is None:
                raise DataError(f"{record.source or 'a record'}: too long to be read ({self._encoder.report()}); raise max_length")
            data.append(datum)
        what = "responses" if self._encoder.layout == "single" else "pairs"
        known = remember(data, self._features, self._read, pad_id(self._tokenizer), self._layout, what=what)
        return look_up(known, self._features)

    def _read(self, batch: TreeBatch) -> Tensor:
        batch = batch.to(self._device)
        hidden: Tensor = self._backbone(batch.ids, batch.positions, batch.until, batch.padded)
        return hidden.flatten(0, 1)
