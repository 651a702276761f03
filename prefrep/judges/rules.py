"""Python functions as judges, and two rules: `concise`, with a known best answer, and `on_topic`, of another kind."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from prefrep.errors import ConfigError
from prefrep.judges.base import Floats, Judge, Verdict
from prefrep.records import RankedResponses, text

Rule = Callable[[str, str, str], float]


class RuleJudge(Judge):
    """A Python function (prompt, response, other response) -> log-odds that the response is better.

    The judge calls the function in both orders and averages, (f(a, b) - f(b, a)) / 2, which removes any position bias.

    Args:
        rule: Dotted path of the function, `package.module.function`.

    Raises:
        ConfigError: The function cannot be imported.
    """

    def __init__(self, rule: str) -> None:
        self.rule, self._function = rule, function(rule)

    @property
    def name(self) -> str:
        """Dotted path of the function."""
        return self.rule

    def verdicts(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """See `Judge`.

        Raises:
            ConfigError: The function raises an exception, or returns something other than a finite number.
        """
        for record in records:
            prompt, answers = text(record.prompt), [text(response) for response in record.responses]
            given = np.array([[self._ask(prompt, a, b) if i != j else 0.0 for j, b in enumerate(answers)] for i, a in enumerate(answers)])
            with np.errstate(over="ignore"):  # `Judge.judge` raises a better message
                yield Verdict(cast(Floats, ((given - given.T) / 2).astype(np.float32)))

    def _ask(self, prompt: str, a: str, b: str) -> float:
        try:
            value = float(self._function(prompt, a, b))
        except Exception as error:  # user code can raise anything
            raise ConfigError(f"the judge {self.rule} failed on the prompt {prompt!r:.60} ({type(error).__name__}: {error})") from error
        if not math.isfinite(value):
            raise ConfigError(f"the judge {self.rule} gave {value} on the prompt {prompt!r:.60}; log-odds must be finite")
        return value

    def describe(self) -> dict[str, Any]:
        """Return the dotted path."""
        return {"rule": self.rule}


def function(path: str) -> Rule:
    """Import the function at a dotted path, `package.module.function`. Raises ConfigError: it cannot be imported or called."""
    module, _, name = path.rpartition(".")
    try:
        found: Rule = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the judge {path} is neither an exported folder nor a Python function that can be imported ({error}); write a function as "
            "package.module.function"
        ) from error
    if not callable(found):
        raise ConfigError(f"the judge {path} is of type {type(found).__name__}; name a function of (prompt, response, other response)")
    return found


SHORTEST, LONGEST = 5, 10  # words


def concise(prompt: str, response: str, other: str) -> float:
    """Return the log-odds that a response is more concise than the other: the difference of their `conciseness`."""
    return conciseness(response) - conciseness(other)


def conciseness(response: str) -> float:
    """Return how close a response is to one short, complete sentence; the maximum is 0.

    The best responses have 5 to 10 words and end in a full stop, a question mark or an exclamation mark. Every ten words above that cost
    1, every missing word costs 1, and a missing end mark costs 1. The content does not count.
    """
    count = len(words(response))
    whole = response.rstrip().endswith((".", "!", "?"))
    return -max(count - LONGEST, 0) / 10 - max(SHORTEST - count, 0) - (not whole)


def on_topic(prompt: str, response: str, other: str) -> float:
    """Return the log-odds that a response keeps to the prompt more than the other: the difference of their shares, in nats, times 4.

    The share is of the different words of five letters and more in the prompt that occur in the response; 0 if the prompt has none. Nothing
    else counts, so a policy that is trained on another rule, such as `concise`, may lose by this one.
    """
    asked = {word.lower() for word in words(prompt) if len(word) >= 5}
    ours, theirs = (len(asked & {word.lower() for word in words(text)}) for text in (response, other))
    return 4 * (ours - theirs) / max(len(asked), 1)


def words(text: str) -> list[str]:
    """Return the words of a text without punctuation; those with an apostrophe are one."""
    return re.findall(r"\w+(?:['\u2019]\w+)*", text)
