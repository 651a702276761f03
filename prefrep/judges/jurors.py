"""A population with a cycle by construction: three jurors who each rank answers, and whose majority runs in a circle.

An answer has a place on a circle by its number of words, once around in `LAP` words. Each juror likes answers the better the further they
are from the juror's own starting point, which is a ranking. The starting points are a third of the circle apart, as in Condorcet's example
(A > B > C, B > C > A, C > A > B): two jurors or three prefer the longer one of two answers less than a third of the circle apart, and two
or three the shorter one of answers more than two thirds apart. Somewhat longer wins, up to a length that loses to the shortest answers.
"""

from __future__ import annotations

import math

from prefrep.judges.rules import words

LAP = 36  # words
SURE = 2.0  # nats of a single juror


def place(response: str) -> float:
    """Return the place of a response on the circle, in [0, 1); longer ones than `LAP` are at its end."""
    return min(len(words(response)), LAP - 1) / LAP


def first(prompt: str, response: str, other: str) -> float:
    """Return the log-odds of the juror who starts at 0: `SURE` for the longer response."""
    return SURE * _prefers(response, other, 0)


def second(prompt: str, response: str, other: str) -> float:
    """Return the log-odds of the juror who starts at a third: the shortest answers are better than the longest."""
    return SURE * _prefers(response, other, 1)


def third(prompt: str, response: str, other: str) -> float:
    """Return the log-odds of the juror who starts at two thirds."""
    return SURE * _prefers(response, other, 2)


def circular(prompt: str, response: str, other: str) -> float:
    """Return the log-odds of the vote of the three, log((n + 1/2) / (3 - n + 1/2)) for n votes; equal places share them."""
    votes = 1.5 + sum(_prefers(response, other, juror) for juror in range(3)) / 2
    return math.log((votes + 0.5) / (3.5 - votes))


def _prefers(response: str, other: str, juror: int) -> int:
    """Return 1 for the response, -1 for the other one, 0 for equal places."""
    start = juror * LAP // 3
    ours, theirs = ((round(place(text) * LAP) - start) % LAP for text in (response, other))
    return (ours > theirs) - (ours < theirs)
