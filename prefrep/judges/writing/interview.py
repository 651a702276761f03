"""How a judge is asked: records to questions, questions to answers, answers to judgments, counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from tqdm import tqdm

from prefrep.judges.writing.asker import Asker
from prefrep.judges.writing.asking import Prompt, Question, question
from prefrep.judges.writing.forms import Form, FormName, Style, form_of
from prefrep.judges.writing.judgments import Judgment, Tally
from prefrep.judges.writing.reading import UNANSWERED, Constraint, Reply, read
from prefrep.records import Messages, RankedResponses

log = logging.getLogger(__name__)

WINDOW = 128  # questions that are asked together


@dataclass(frozen=True)
class Manner:
    """How questions are put; see `GenerativeJudge` for the fields."""

    form: FormName = "choice"
    style: Style = "reasons"
    prompt: str = "pair"
    rubric: str = ""
    criteria: tuple[str, ...] = ()
    reference: str | None = None
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 1024
    points: int = 10
    constraint: Constraint = "none"
    seed: int = 0
    retries: int = 1


def shipped(form: FormName) -> str:
    """Return the name of the shipped prompt for a form."""
    return form if form in ("best-of", "rating") else "pair"


@dataclass(frozen=True)
class Shown:
    """Answers of a record in the order in which one question shows them.

    Args:
        record: The prompt and all its answers.
        places: Which answers are shown, in order.
    """

    record: RankedResponses
    places: tuple[int, ...]

    @property
    def answers(self) -> tuple[Messages, ...]:
        """The answers in order."""
        return tuple(self.record.responses[place] for place in self.places)


class Interview:
    """Questions to one model.

    Args:
        name: Name of the judge.
        manner: How it is asked.
        asker: Builds the model with its memory and budget, on first use.

    Raises:
        ConfigError: The prompt cannot be read, or the form does not fit.
    """

    def __init__(self, name: str, manner: Manner, asker: Callable[[], Asker]) -> None:
        self.name, self.manner, self._build = name, manner, asker
        self.prompt, self.tally = Prompt(manner.prompt), Tally()
        self._unanswered: dict[str, Judgment] = {}  # of questions that got an error or a time-out to the end, by the name of the question
        self._form(2)

    @cached_property
    def asker(self) -> Asker:
        """The model with its memory and budget."""
        return self._build()

    def at(self, manner: Manner) -> Self:
        """Return the same model, memory, budget and counts, asked in another manner."""
        _ = self.asker  # built before it is shared
        other = copy(self)
        other.manner, other.prompt = manner, Prompt(manner.prompt)
        return other

    def forget(self) -> None:
        """Forget counts, and which questions had no answer."""
        self.tally.found.clear()
        self._unanswered.clear()

    def _form(self, answers: int) -> Form:
        return form_of(self.manner.form, self.manner.style, answers, self.manner.points)

    def _questions(self, shown: Shown, attempt: int = 0) -> list[Question]:
        """Return the samples of a question; further attempts draw anew."""
        how, record = self.manner, shown.record
        more = {
            "rubric": how.rubric,
            "criteria": list(how.criteria),
            "reference": record.tags.get(how.reference, "") if how.reference else "",
            "criterion": record.criterion,
            "json": how.constraint == "json",
        }
        form = self._form(len(shown.places))
        messages = question(self.prompt, record.prompt, shown.answers, form, how.style, more)
        first = how.seed * 1_000_003 + attempt * how.samples
        seeds = range(first, first + how.samples) if how.temperature > 0 else (0,)
        return [Question(messages, form.labels, how.style, how.constraint, how.max_tokens, how.temperature, seed) for seed in seeds]

    def judged(self, asked: Sequence[Shown], progress: str | None) -> Iterator[Judgment]:
        """Yield the judgments of questions, in order."""
        if progress is not None:
            log.info("%s: %s: %s", progress, self.name, self.asker.estimate([each for shown in asked for each in self._questions(shown)]))
        with self._bar(len(asked), progress) as bar:
            for at in range(0, len(asked), WINDOW):
                for judgment in self._window(asked[at : at + WINDOW]):
                    self.tally.add(judgment)
                    bar.update()
                    yield judgment

    @contextmanager
    def _bar(self, total: int, progress: str | None) -> Iterator[tqdm[Any]]:
        with tqdm(total=total, desc=progress, unit=" questions", disable=progress is None) as bar:
            self.asker.bar = bar
            try:
                yield bar
            finally:
                self.asker.bar = None

    def _window(self, asked: Sequence[Shown]) -> list[Judgment]:
        found: dict[int, Judgment] = {}
        places, failed = [], set[int]()
        for place, shown in enumerate(asked):
            if len(set(shown.answers)) == 1 < len(shown.places):  # nobody has to be asked whether equal texts are equal
                even = (1 / len(shown.places),) * len(shown.places)
                found[place] = Judgment(self.name, shown.record.id, shown.places, even)
            elif self._unanswered and (known := self._unanswered.get(self._key(shown))) is not None:
                found[place] = replace(known, id=shown.record.id, places=shown.places)
            else:
                places.append(place)
        for attempt in range(self.manner.retries + 1):
            questions = {place: self._questions(asked[place], attempt) for place in places}
            replies = iter(self.asker.replies([each for group in questions.values() for each in group]))
            for place in places:
                answered = [(each, next(replies)) for each in questions[place]]
                found[place] = self._judgment(asked[place], answered)
                if any(reply.finish in UNANSWERED for _, reply in answered):
                    failed.add(place)
            if not (places := [place for place in places if self._again_helps(found[place])]):
                break
        # Scores and verdicts of one run ask the same questions one after the other, and must hear the same.
        self._unanswered |= {self._key(asked[place]): found[place] for place in failed}
        return [found[place] for place in range(len(asked))]

    def _key(self, shown: Shown) -> str:
        return self.asker.key(self._questions(shown)[0])

    def _again_helps(self, judgment: Judgment) -> bool:
        drawn = self.manner.temperature > 0 and judgment.why != "refused"
        return judgment.values is None and (judgment.why in UNANSWERED or drawn)

    def _judgment(self, shown: Shown, answered: Sequence[tuple[Question, Reply]]) -> Judgment:
        form = self._form(len(shown.places))
        readings = [read(reply, form, self.manner.style, self.manner.constraint) for _, reply in answered]
        known = [(each.shares, each.soft) for each in readings if each.shares is not None]
        unread = Counter(each.why for each in readings if each.shares is None)
        why = ", ".join(unread) if not known else ", ".join(f"{count} of {len(readings)} samples: {each}" for each, count in unread.items())
        return Judgment(
            self.name,
            shown.record.id,
            shown.places,
            form.values(known) if known else None,
            bool(known) and all(soft for _, soft in known),
            why,
            tuple(reply.text for _, reply in answered),
            self.asker.key(answered[0][0]),
            sum(reply.asked_tokens + reply.said_tokens for _, reply in answered),
        )
