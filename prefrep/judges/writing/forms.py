"""What a judge may say: a choice of two, with or without a tie, five grades, the best of K, a rating of one answer.

A *label* stands in the marker, `[[A]]`. Each label of a pair form has an outcome, P(the answer shown first is better), and a weight:
the number of comparisons it counts for. Arena-Hard counts `>>` three times (lmarena/arena-hard-auto).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

from prefrep.errors import ConfigError

FormName = Literal["choice", "choice-or-tie", "grades", "best-of", "rating"]
Style = Literal["reasons", "letter"]
FLOOR = 1e-4  # least probability of a verdict that comes from tokens: servers list few alternatives, and none is impossible
_GRADES = (("A>>B", 1.0, 3.0), ("A>B", 1.0, 1.0), ("A=B", 0.5, 1.0), ("B>A", 0.0, 1.0), ("B>>A", 0.0, 3.0))


@dataclass(frozen=True)
class Form:
    """A form of verdicts on the answers that one question shows.

    Args:
        name: Its name.
        labels: What may be said, [L].
        meanings: What each label means, in words for the judge, [L].
        outcomes: Of a pair: P(the answer shown first is better), [L]; of a rating, the number; of the best of K, nothing.
        weights: Comparisons that a label counts for, [L].
    """

    name: FormName
    labels: tuple[str, ...]
    meanings: tuple[str, ...]
    outcomes: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def single(self) -> bool:
        """Whether each label is one character, so that one token tells them apart."""
        return all(len(label) == 1 for label in self.labels)

    def values(self, readings: Sequence[tuple[Sequence[float], bool]]) -> tuple[float, ...]:
        """Return what several answers to one question say together.

        Verdicts without probabilities are counted, with half a verdict added for each outcome (Krichevsky and Trofimov, 1981), so that
        log-odds are finite: one plain choice is P = 0.75, a plain `>>` P = 0.875, nine choices of ten P = 0.86.

        Args:
            readings: For each answer the shares of the labels [L], which add up to 1, and whether they are probabilities of tokens.

        Returns:
            Of a pair (p, 1 - p), p = P(the answer shown first is better); of the best of K the probability of each; of a rating its mean.
        """
        if self.name == "rating":
            means = [sum(share * value for share, value in zip(shares, self.outcomes, strict=True)) for shares, _ in readings]
            return (sum(means) / len(means),)
        half = 0.0 if all(soft for _, soft in readings) else 0.5
        if self.name == "best-of":
            size = len(self.labels)
            counts = [sum(shares[place] for shares, _ in readings) + half for place in range(size)]
            kept = [max(count / sum(counts), FLOOR) for count in counts]
            return tuple(each / sum(kept) for each in kept)
        wins = losses = half
        for shares, _ in readings:
            for share, outcome, weight in zip(shares, self.outcomes, self.weights, strict=True):
                wins, losses = wins + share * weight * outcome, losses + share * weight * (1 - outcome)
        p = min(max(wins / (wins + losses), FLOOR), 1 - FLOOR)
        return (p, 1 - p)


def form_of(name: FormName, style: Style, answers: int = 2, points: int = 10) -> Form:
    """Return a form.

    Args:
        name: Its name.
        style: `letter`: every label is one character, so that the first token of an answer is the verdict.
        answers: Answers shown at a time, for `best-of`.
        points: Highest rating.

    Raises:
        ConfigError: The answers have no labels, or the style cannot say so many points.
    """
    if name == "best-of":
        if not 2 <= answers <= len(ascii_uppercase):
            raise ConfigError(f"form best-of shows 2 to {len(ascii_uppercase)} answers at a time, got {answers}; take form rating")
        letters = tuple(ascii_uppercase[:answers])
        return Form(name, letters, tuple(f"answer {letter} is the best" for letter in letters))
    if name == "rating":
        if not 2 <= points <= (9 if style == "letter" else 100):
            raise ConfigError(f"points must lie between 2 and {9 if style == 'letter' else 100} with style {style}, got {points}")
        numbers = tuple(range(1, points + 1))
        said = tuple("the worst" if each == 1 else "the best" if each == points else "" for each in numbers)
        return Form(name, tuple(map(str, numbers)), said, tuple(map(float, numbers)), (1.0,) * points)
    if name == "grades":
        words = ("answer A is much better", "answer A is slightly better", "both are equally good", "answer B is slightly better",
                 "answer B is much better")  # fmt: skip
        labels = tuple(str(number) for number in range(1, 6)) if style == "letter" else tuple(label for label, _, _ in _GRADES)
        return Form(name, labels, words, tuple(each[1] for each in _GRADES), tuple(each[2] for each in _GRADES))
    size, said = 3 if name == "choice-or-tie" else 2, ("answer A is better", "answer B is better", "both are equally good")
    return Form(name, ("A", "B", "C")[:size], said[:size], (1.0, 0.0, 0.5)[:size], (1.0,) * size)
