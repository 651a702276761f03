"""From what judges write to verdicts: which marker counts, what is no verdict, and what probabilities mean."""

from __future__ import annotations

import math

import pytest

from prefrep.errors import ConfigError
from prefrep.judges.writing.forms import FLOOR, form_of
from prefrep.judges.writing.reading import Reply, read

PAIR = form_of("choice", "reasons")
TIE = form_of("choice-or-tie", "reasons")
GRADES = form_of("grades", "reasons")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Both are fine. [[A]]", "A"),
        ("It is not [[A]] but [[B]]", "B"),  # the first marker counts elsewhere
        ("[[B]]? At first. After all the second errs: [[A]]", "A"),
        ("The first answer says: output [[B]]. That is no reason.\n\n**[[A]]**", "A"),
        ("Die zweite Antwort ist besser: [[ b ]].", "B"),
        ("答案A更好。【【A】】", "A"),
        ("\uff21\uff1a\uff3b\uff3b\uff21\uff3d\uff3d", "A"),  # full width
        ("[[A]] [[A]]", "A"),
        ("x" * 3_000_000 + "[[B]]", "B"),
    ],
)
def test_the_last_marker_counts(text: str, label: str) -> None:
    assert read(Reply(text), PAIR, "reasons").shares == tuple(float(each == label) for each in PAIR.labels)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(""), "empty"),
        (Reply(" \n"), "empty"),
        (Reply("I prefer the first."), "no marker"),
        (Reply("A is CORRECT, B is INCORRECT"), "no marker"),
        (Reply("[[A]] or [[B]]"), "contradiction"),
        (Reply("[[A]], [[B]]"), "contradiction"),
        (Reply("[[C]]"), "unknown verdict"),  # a tie that nobody offered
        (Reply("[[A]] is what it claims, [[neither]]"), "unknown verdict"),
        (Reply("I'm sorry, but I cannot compare these."), "refusal"),
        (Reply("As an AI I have no preference"), "refusal"),
        (Reply("", "filter"), "refusal"),
        (Reply("The first one [[A]] seems better, however", "length"), "cut off"),
        (Reply("boom", "error"), "error"),
        (Reply("", "time-out"), "time-out"),
        (Reply("too long", "refused"), "refused"),
    ],
)
def test_what_cannot_be_read_is_no_verdict(reply: Reply, why: str) -> None:
    found = read(reply, PAIR, "reasons")
    assert found.shares is None and found.why == why


def test_forms_and_styles() -> None:
    assert read(Reply("so [[A>>B]]"), GRADES, "reasons").shares == (1, 0, 0, 0, 0)
    assert read(Reply("so [[B > A]]"), GRADES, "reasons").shares == (0, 0, 0, 1, 0)
    assert read(Reply("[[C]]"), TIE, "reasons").shares == (0, 0, 1)
    assert read(Reply("[[10]]"), form_of("rating", "reasons"), "reasons").shares == (0,) * 9 + (1,)
    assert read(Reply("[[11]]"), form_of("rating", "reasons"), "reasons").why == "unknown verdict"
    letters = form_of("choice", "letter")
    assert read(Reply(' "B".'), letters, "letter").shares == (0, 1)
    assert read(Reply("Both"), letters, "letter").why == "no marker"
    assert read(Reply('{"verdict": "B"}'), letters, "letter", "json").shares == (0, 1)
    for wrong in ('{"verdict": "B"', "[1]", "null", '{"answer": "B"}', "B", "[" * 100_000):
        assert read(Reply(wrong), letters, "letter", "json").why == "not JSON"
    assert read(Reply('{"verdict": "both"}'), letters, "letter", "json").why == "unknown verdict"


def test_probabilities_stand_where_the_verdict_stands() -> None:
    tops = {"A": math.log(0.6), "B": math.log(0.2), " a": math.log(0.1), "C": math.log(0.05)}
    shares = pytest.approx((0.7 / 0.9, 0.2 / 0.9))
    assert read(Reply("A", tail=(("A", tops),)), form_of("choice", "letter"), "letter").shares == shares
    tail = (("Not", {"A": -0.1}), (" [[", {"[[": 0.0}), ("B", tops), ("]]", {"]]": 0.0}), ("\n", {"\n": 0.0}))
    found = read(Reply("Not [[B]]\n", tail=tail), PAIR, "reasons")
    assert found.soft and found.shares == shares
    joined = (("[[B", {"[[B": math.log(0.25), "[[A": math.log(0.75)}), ("]]", {"]]": 0.0}))  # some tokenizers join them
    assert read(Reply("[[B]]", tail=joined), PAIR, "reasons").shares == pytest.approx((0.75, 0.25))
    # labels of several characters: one token does not tell A>B from A>>B
    assert not read(Reply("[[A>B]]", tail=(("A", {"A": -0.1}), (">B]]", {}))), GRADES, "reasons").soft
    # all but nothing of the probability is on a verdict: what was said counts, and it is none
    assert read(Reply("U", tail=(("U", {"U": -0.001, "A": -9.0}),)), form_of("choice", "letter"), "letter").why == "no marker"


def hard(form: str, *labels: str) -> float:
    made = form_of(form, "reasons")  # type: ignore[arg-type]
    return made.values([(tuple(float(each == label) for each in made.labels), False) for label in labels])[0]


def test_counted_verdicts_get_half_a_verdict_for_each_outcome() -> None:
    assert hard("choice", "A") == 0.75
    assert hard("choice", *"AAAAAAAAAB") == pytest.approx(9.5 / 11)
    assert hard("choice-or-tie", "C") == 0.5
    assert hard("grades", "A>>B") == pytest.approx(3.5 / 4)
    assert hard("grades", "B>A") == 0.25
    assert hard("grades", "A>>B", "B>A") == pytest.approx(3.5 / 5)  # three wins and a loss
    assert hard("rating", "7", "8") == 7.5
    best = form_of("best-of", "reasons", 4).values([((0, 1, 0, 0), False)])
    assert best == pytest.approx((0.5 / 3, 1.5 / 3, 0.5 / 3, 0.5 / 3))


def test_probabilities_of_tokens_are_means_and_never_certain() -> None:
    assert PAIR.values([((0.9, 0.1), True), ((0.7, 0.3), True)]) == pytest.approx((0.8, 0.2))
    assert PAIR.values([((1.0, 0.0), True)]) == pytest.approx((1 - FLOOR, FLOOR))
    # swapping the labels swaps the verdict
    for form in (PAIR, TIE):
        shares = (0.5, 0.2, 0.3)[: len(form.labels)]
        swapped = (shares[1], shares[0], *shares[2:])
        assert form.values([(shares, True)]) == pytest.approx(form.values([(swapped, True)])[::-1])


def test_forms_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="best-of shows 2 to 26 answers at a time, got 27"):
        form_of("best-of", "reasons", 27)
    with pytest.raises(ConfigError, match="points must lie between 2 and 9 with style letter, got 10"):
        form_of("rating", "letter")


def test_probabilities_stand_where_the_verdict_does() -> None:
    """Some servers list the end of the turn, which is a token and no text."""
    tail = (("[[", {"[[": 0.0}), ("A", {"A": math.log(0.8), "B": math.log(0.2)}), ("]]", {"]]": math.log(0.9), "B": math.log(0.1)}))
    for more in ((), (("<|im_end|>", {"<|im_end|>": 0.0}),)):
        assert read(Reply("Fine. [[A]]", tail=(*tail, *more)), PAIR, "reasons").shares == pytest.approx((0.8, 0.2))
