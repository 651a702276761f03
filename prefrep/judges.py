"""Judges that are no models: rules, and Python functions in general, as a source of preferences.

A judge is asked for tables: log-odds in nats [K, K] that row beats column, exactly skew-symmetric. Preference models as judges are in
`callbacks.labelling`, since they need a `Scorer`.
"""

from __future__ import annotations

import importlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from prefrep.errors import ConfigError
from prefrep.records import Comparison, RankedResponses, text

Floats = NDArray[np.float32]
Rule = Callable[[str, str, str], float]


@dataclass(frozen=True)
class Verdict:
    """What a judge says of K responses to one prompt.

    Args:
        table: Log-odds [K, K], skew-symmetric.
        blocks: The same by 2 x 2 block of a general preference model [B, K, K], which add up to the table; None: there are none.
    """

    table: Floats
    blocks: Floats | None = None


class Judge(ABC):
    """Compares responses."""

    @abstractmethod
    def judge(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """Verdicts on some records, in their order; equal records give equal verdicts."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything that can move a verdict, as plain data."""


class RuleJudge(Judge):
    """A Python function as a judge: (prompt, response, other response) -> log-odds that the response is better.

    Both orders are asked and averaged, (f(a, b) - f(b, a)) / 2, so that the place of a response cannot matter. The same dotted path is
    understood by `bin/eval winrate --judge`.

    Args:
        rule: Dotted path of the function, `package.module.function`.

    Raises:
        ConfigError: There is no such function.
    """

    def __init__(self, rule: str) -> None:
        self.rule, self._function = rule, function(rule)

    def judge(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """See `Judge`. Raises ConfigError: the function fails, or gives something else than a number."""
        for record in records:
            prompt, answers = text(record.prompt), [text(response) for response in record.responses]
            given = np.array([[self._ask(prompt, a, b) if i != j else 0.0 for j, b in enumerate(answers)] for i, a in enumerate(answers)])
            with np.errstate(over="ignore"):  # `check_finite` says it with more words
                table = cast(Floats, ((given - given.T) / 2).astype(np.float32))
            check_finite(table, f"the judge {self.rule}", prompt)
            yield Verdict(table)

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """Log-odds of chosen over rejected, as a `Scorer` gives them; errors as for `judge`."""
        for each in tqdm(comparisons, progress, unit=" pairs", disable=progress is None):
            (verdict,) = self.judge([RankedResponses(each.prompt, (each.chosen, each.rejected))])
            yield float(verdict.table[0, 1])

    def _ask(self, prompt: str, a: str, b: str) -> float:
        try:
            value = float(self._function(prompt, a, b))
        except Exception as error:  # whatever someone's function raises
            raise ConfigError(f"the judge {self.rule} failed on the prompt {prompt!r:.60} ({type(error).__name__}: {error})") from error
        if not math.isfinite(value):
            raise ConfigError(f"the judge {self.rule} gave {value} on the prompt {prompt!r:.60}; log-odds must be finite")
        return value

    def describe(self) -> dict[str, Any]:
        """Its path."""
        return {"rule": self.rule}


def check_finite(table: Floats, who: str, prompt: str) -> None:
    """Raises ConfigError where log-odds are not finite. Tables hold 32 bits: what a function gives may overflow there."""
    if not np.isfinite(table).all():
        wrong = table[~np.isfinite(table)].flat[0]
        raise ConfigError(f"{who} gave the log-odds {wrong} on the prompt {prompt!r:.60}; they must be finite numbers of 32 bits")


def function(path: str) -> Rule:
    """The function of a dotted path, `package.module.function`. Raises ConfigError: there is none."""
    module, _, name = path.rpartition(".")
    try:
        found: Rule = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the judge {path} is neither an exported folder nor a Python function that can be imported ({error}); a function is written "
            "package.module.function"
        ) from error
    if not callable(found):
        raise ConfigError(f"the judge {path}: found {type(found).__name__}, not a function of (prompt, response, other response)")
    return found


# ---- a rule with a known answer

SHORTEST, LONGEST = 5, 10  # words


def concise(prompt: str, response: str, other: str) -> float:
    """Log-odds that a response is the more concise one: `conciseness` of the first minus that of the second."""
    return conciseness(response) - conciseness(other)


def conciseness(response: str) -> float:
    """How near a response is to one short, whole sentence; 0 is the best there is.

    The known answer: 5 to 10 words, ending in a full stop, a question mark or an exclamation mark. Every ten words more cost 1, every
    word that is missing costs 1, and an end without such a mark costs 1. What the response says does not count.
    """
    count = len(re.findall(r"\w+(?:['\u2019]\w+)*", response))
    whole = response.rstrip().endswith((".", "!", "?"))
    return -max(count - LONGEST, 0) / 10 - max(SHORTEST - count, 0) - (not whole)
