"""What a step of `prefrep label` is: pairs in, pairs with new labels and columns out, and what it did as plain data."""

from __future__ import annotations

import hashlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prefrep.data.across import check_one_prompt
from prefrep.data.firsts import Firsts, Ints
from prefrep.data.mapped import Mapped
from prefrep.labels.reading import read
from prefrep.labels.rows import Labelled
from prefrep.labels.states import Spooled, States, StatesFile
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import PreferenceHead
from prefrep.nn.loading import device_of
from prefrep.parts import Part
from prefrep.records import Comparison, Messages, text
from prefrep.room import require, saving
from prefrep.writers import leave

Floats = NDArray[np.float64]
Number = TypeVar("Number", bound=np.floating[Any])
_SHOWN = 400  # characters of a text in an example


@dataclass(frozen=True)
class Example:
    """A pair that a report shows.

    Args:
        title: What happened to it, and why.
        texts: Its texts by name.
    """

    title: str
    texts: Mapping[str, str]


@dataclass
class Outcome:
    """What a step made.

    Args:
        pairs: The pairs that go on. Of many, `data.spool.Spool` keeps them on disk.
        numbers: What it found and changed, by name: counts, shares, estimates, or an estimate with its interval as three numbers.
        histograms: Values whose distribution a report draws, by name.
        examples: Pairs that a report shows.
        notes: What a reader must know of the numbers.
    """

    pairs: Sequence[Labelled]
    numbers: dict[str, Any] = field(default_factory=dict)
    histograms: dict[str, Floats] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Work:
    """What steps share: the language model, the states of pairs, and results that a killed run need not compute again.

    Args:
        model: Language model whose frozen states heads are trained on.
        folder: Folder of the results of this output.
    """

    def __init__(self, model: str, folder: Path) -> None:
        self.model, self._folder = model, folder
        self._backbone: Backbone | None = None
        self._known: dict[str, _Known] = {}

    def states(self, pairs: Sequence[Comparison], head: PreferenceHead | None = None) -> States | Spooled:
        """Return the states of pairs, see `labels.reading.read`; each pair is read once, whatever steps leave out or add.

        Args:
            pairs: The pairs.
            head: A head of the kind that will read them; None: one that reads single responses.

        Raises:
            RecordError: The head is gated by the prompt, and a pair has none in common.
        """
        layout = "single" if head is None else head.layout
        for each in pairs if head is not None and head.needs_prompt else ():
            check_one_prompt(each, gated=True)
        known = self._known.pop(layout, None) or _Known()  # after an error it is gone, since it may note places that have no states
        begin = len(known.firsts)
        firsts = known.firsts.add(repr((each.prompt, each.chosen, each.rejected, each.template_kwargs)).encode() for each in pairs)
        new = np.flatnonzero(firsts == np.arange(begin, begin + len(pairs)))
        places = np.full(len(pairs), -1)
        places[new] = len(known.file) + np.arange(len(new))
        known.places = np.concatenate([known.places, places])
        if len(new):
            if self._backbone is None:
                self._backbone = Backbone(self.model, frozen=True).to(device_of("auto"))
            needs = 12 * self._backbone.hidden_size * len(new)
            require(Path(tempfile.gettempdir()), needs, f"the states of {len(new):,} pairs", "label fewer pairs at a time (--limit)")
            for states in read(self._backbone, layout, Mapped(pairs, places=new)):
                known.file.extend(states)
        self._known[layout] = known
        return Spooled(known.file, known.places[firsts])

    def kept(self, name: str, make: Callable[[], NDArray[Number]], *depends: object) -> NDArray[Number]:
        """Return an array that an earlier run of the same output left, or make it; a signal ends the program behind it.

        Args:
            name: What it is, for the name of its file.
            make: Computes it.
            depends: All that it depends on, as plain data and arrays.
        """
        digest = hashlib.sha256()
        for each in depends:
            digest.update(np.ascontiguousarray(each).data if isinstance(each, np.ndarray) else repr(each).encode())
        path = self._folder / "kept" / f"{name}-{digest.hexdigest()[:12]}.npy"
        if not path.exists():
            found = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".part")
            with saving(path), draft.open("wb") as file:
                np.save(file, found)
            draft.replace(path)
        leave()
        return np.asarray(np.load(path))


@dataclass
class _Known:
    """States that were read.

    Args:
        firsts: Where the texts of each pair came first.
        places: Places in `file` of those that came first.
        file: Their states.
    """

    firsts: Firsts = field(default_factory=Firsts)
    places: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    file: StatesFile = field(default_factory=StatesFile)


class LabelStep(Part, ABC):
    """A step of `prefrep label`. Its constructor takes plain data or other parts; a step that draws anything takes a seed."""

    @abstractmethod
    def apply(self, pairs: Sequence[Labelled], work: Work) -> Outcome:
        """Return the pairs with new labels and columns.

        Args:
            pairs: The pairs, as read and as the steps before left them.
            work: What steps share.

        Raises:
            PrefrepError: The pairs lack what the step needs.
        """


def example(title: str, pair: Comparison) -> Example:
    """Return a pair as an example."""

    def cut(messages: Messages) -> str:
        said = text(messages)
        return said if len(said) <= _SHOWN else f"{said[:_SHOWN]} ..."

    texts = {"Prompt": cut(pair.prompt[-1:])} if pair.prompt else {}
    return Example(f"{pair.source or pair.id or 'a pair'}: {title}", {**texts, "chosen": cut(pair.chosen), "rejected": cut(pair.rejected)})
