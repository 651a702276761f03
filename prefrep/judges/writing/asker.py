"""Questions to answers: what is kept is not asked again, what is asked is kept, and a budget holds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from prefrep.judges.writing.asking import Question
from prefrep.judges.writing.judgments import BudgetError
from prefrep.judges.writing.kept import Kept
from prefrep.judges.writing.reading import UNANSWERED, Reply
from prefrep.judges.writing.writers import Writer
from prefrep.writers import is_asked_to_leave, leave

log = logging.getLogger(__name__)

LETTERS = 4  # characters of a token, for estimates


@dataclass(frozen=True)
class Estimate:
    """What answering some questions would take.

    Args:
        questions: All of them.
        kept: Those whose answers are kept.
        asked_tokens: Tokens of the others, about.
        said_tokens: Tokens of their answers, at most.
    """

    questions: int
    kept: int
    asked_tokens: int
    said_tokens: int

    def __str__(self) -> str:
        new = self.questions - self.kept
        more = f", about {self.asked_tokens:,} tokens and at most {self.said_tokens:,} of answers" if new else ""
        return f"{self.questions:,} questions, {self.kept:,} of them answered before: {new:,} requests{more}"


class Asker:
    """A writer with a memory and a budget.

    Args:
        writer: Who answers.
        max_requests: Most questions sent; None: no limit. What is kept costs none.
        max_tokens: Most tokens of questions and answers; None: no limit. Answers in flight when it is reached still count.
    """

    def __init__(self, writer: Writer, max_requests: int | None = None, max_tokens: int | None = None) -> None:
        self.writer, self.kept = writer, Kept(writer.who())
        self._most, self._most_tokens = max_requests, max_tokens
        self.requests = self.tokens = 0
        self.bar: tqdm[Any] | None = None

    def key(self, question: Question) -> str:
        """Return the name of a question in the cache."""
        return self.kept.key(question.as_dict())

    def estimate(self, questions: Sequence[Question]) -> Estimate:
        """Return what answering would take."""
        keys = [self.key(each) for each in questions]
        known = self.kept.find(set(keys))
        new = {key: each for key, each in zip(keys, questions, strict=True) if key not in known}
        letters = sum(len(turn.content) for each in new.values() for turn in each.messages)
        return Estimate(len(set(keys)), len(known), letters // LETTERS, sum(each.max_tokens for each in new.values()))

    def replies(self, questions: Sequence[Question]) -> list[Reply]:
        """Return the answers to questions, asking for those that are not kept. Errors and time-outs are not kept.

        Raises:
            BudgetError: The budget is spent; what was answered is kept.
            Stopped: A signal asked the program to stop; what was answered is kept.
            PrefrepError: No question can be answered.
        """
        keys = [self.key(each) for each in questions]
        found = self.kept.find(set(keys))
        if any(key not in found for key in keys):
            with self.kept.asking():
                found |= self.kept.find({key for key in keys if key not in found})  # another run may have asked meanwhile
                missing = {key: each for key, each in zip(keys, questions, strict=True) if key not in found}
                found |= self._asked(missing)
        return [found[key] for key in keys]

    def _asked(self, missing: dict[str, Question]) -> dict[str, Reply]:
        names, asked, found = list(missing), list(missing.values()), dict[str, Reply]()
        left = len(asked) if self._most is None else max(self._most - self.requests, 0)

        def keep(place: int, reply: Reply) -> None:
            if reply.finish not in UNANSWERED:
                self.kept.keep(names[place], asked[place].as_dict(), reply)

        with closing(self.writer.ask(asked[:left], self._proceed, keep)) as answers:
            for place, reply in answers:
                found[names[place]] = reply
                self.requests += 1
                self.tokens += reply.asked_tokens + reply.said_tokens
                if self.bar is not None:
                    self.bar.set_postfix_str(f"{self.requests:,} requests, {self.tokens:,} tokens", refresh=False)
        if len(found) < len(asked):
            leave()
            raise BudgetError(
                f"the judge has sent {self.requests:,} requests of {self.tokens:,} tokens, and its budget "
                f"({'max_requests' if self._most is not None and self.requests >= self._most else 'max_total_tokens'}) is spent; "
                "the answers are kept: raise it and run the same command"
            )
        return found

    def _proceed(self) -> bool:
        return not is_asked_to_leave() and (self._most_tokens is None or self.tokens < self._most_tokens)
