"""Many heads on one frozen language model, which reads each text once (`data.features`).

With a `PreferenceData`, `train_each` gives what as many separate runs would give, for little more than one pass over the text. A `Reading`
serves comparisons that stand in no file.
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
        model: Makes the model from what makes its backbone: `partial(GeneralPreference, head=partial(GPMHead, dim=8))`.
        seed: Of everything random but the order of the data, which has its own.
    """

    model: Callable[[Callable[[], Backbone]], PreferenceModule]
    seed: int = 0


class Trained(NamedTuple):
    """A trained model of a grid.

    Args:
        name: Its name.
        module: The model; its backbone is the shared one.
        metrics: The last value of everything that was logged.
    """

    name: str
    module: PreferenceModule
    metrics: dict[str, float]


def train_each(points: Mapping[str, Point], backbone: Backbone, data: PreferenceData, trainer: Callable[[], Trainer]) -> Iterator[Trained]:
    """Trains models one after the other on one frozen backbone.

    Each gets the weights and metrics that a run of its own would give it, with the same seeds, data and trainer.

    Args:
        points: The models, by name.
        backbone: The language model, frozen.
        data: The data. Texts are read when the first model needs them, or come from an earlier run's cache.
        trainer: Makes a trainer for each model.

    Yields:
        Each model when it is trained.

    Raises:
        ConfigError: The backbone is not frozen, so that heads would train each other's.
    """
    if not backbone.frozen:
        raise ConfigError("train_each shares one backbone among models, which must not change it; make it with frozen: true")
    for name, (make, seed) in points.items():
        seed_everything(seed, verbose=False)
        module, run = make(lambda: backbone), trainer()
        run.fit(module, data)
        yield Trained(name, module, {key: float(value) for key, value in run.callback_metrics.items()})


class Reading:
    """Comparisons as batches that bring what a frozen language model read.

    Args:
        backbone: The language model.
        layout: What heads read: `single` responses, or `pair`s in both orders.
        config: How text becomes token ids.
        cache: Folder of hidden states, see `PreferenceData`.
    """

    def __init__(
        self, backbone: Backbone, layout: Literal["single", "pair"], config: EncodeConfig | None = None, cache: str = "auto"
    ) -> None:
        self._backbone = backbone.eval()
        self._device = next(backbone.parameters()).device
        self._tokenizer = backbone.tokenizer()
        self._encoder = Encoder(self._tokenizer, config or EncodeConfig(), layout)
        self._layout: Layout = "trees" if backbone.supports_trees() else "padded"  # settles the attention kernel, a part of the identity
        self._root = root(cache)
        self._about = identity(backbone, self._device.type)
        self._features = Features(self._root, self._about)

    def batch(self, comparisons: Sequence[Comparison]) -> TreeBatch:
        """All of some comparisons; new texts are read now.

        Raises:
            DataError: A text is too long for the configuration's `max_length` and `truncation`.
        """
        if (about := identity(self._backbone, self._device.type)) != self._about:  # its weights were changed
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
        hidden: Tensor = self._backbone(batch.ids, batch.positions, batch.tree, batch.branch, batch.padded)
        return hidden.flatten(0, 1)
