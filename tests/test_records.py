"""Optional fields of records: defaults change no digest, wrong values are refused."""

import json

import pytest

from prefrep.evaluation.scores import digest
from prefrep.records import Comparison, Message, RankedResponses, as_dict

Q, A, B = (Message("user", "q"),), (Message("assistant", "a"),), (Message("assistant", "b"),)


def test_digests_are_those_of_records_without_the_optional_fields() -> None:
    turn = {"role": "user", "content": "q"}
    empty = {"subset": "", "id": "", "source": "", "tags": {}}
    answers = [({"role": "assistant", "content": text},) for text in "ab"]
    plain = {"prompt": (turn,), "chosen": answers[0], "rejected": answers[1], "probability": 1.0, "margin": 0.0, "weight": 1.0, **empty}
    assert as_dict(Comparison(Q, A, B)) == plain
    assert as_dict(RankedResponses(Q, (A, B))) == {"prompt": (turn,), "responses": tuple(answers), "scores": None, "ratings": {}, **empty}
    # The digest of 0.2.0, whose records had no optional fields.
    assert digest([Comparison(Q, A, B), RankedResponses(Q, (A, B))]) == "729bd7f11ae3d7d2003347593e6ff50b027b3de892bac1abbde99c20a10f703c"
    assert repr(Q) == "(Message(role='user', content='q'),)"


@pytest.mark.parametrize(
    "more",
    [{"annotator": "x"}, {"group": "x"}, {"criterion": "x"}, {"strength": 0.0}, {"label_source": "x"}, {"template_kwargs": {"tools": []}}],
)
def test_a_filled_optional_field_changes_the_digest(more: dict[str, object]) -> None:
    record = Comparison(Q, A, B, **more)  # type: ignore[arg-type]
    assert as_dict(record) == {**as_dict(Comparison(Q, A, B)), **more}
    assert digest([record]) != digest([Comparison(Q, A, B)])


def test_other_fields_of_a_message() -> None:
    call = Message("assistant", "", {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]})
    assert call != Message("assistant", "") and hash(call) == hash(Message("assistant", ""))
    assert json.loads(json.dumps(call.as_dict())) == {"role": "assistant", "content": "", **call.fields}
    assert digest([Comparison(Q, (call,), B)]) != digest([Comparison(Q, (Message("assistant", ""),), B)])


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_strength_is_a_finite_number_from_0(strength: float) -> None:
    with pytest.raises(ValueError, match="the strength of a preference must be 0 or more"):
        Comparison(Q, A, B, strength=strength)
