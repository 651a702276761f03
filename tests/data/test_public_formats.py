"""Rows in the shape of public data sets: who judged, which question, how strongly, and what became of every column."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from prefrep.data.formats import FORMATS, detect, every, to_records
from prefrep.data.kept import about_records, read_kept
from prefrep.data.notes import Notes
from prefrep.data.sources import Source, read
from prefrep.declared import import_modules
from prefrep.errors import DataError, RecordError
from prefrep.records import Comparison, Message, RankedResponses, Record, text

HERE = "f.jsonl:1"
TALK_A = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
TALK_B = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]
WORKER = {"evaluator": "w1", "overall_pref": "A-is-clearly-better", "helpful_pref": "Tie", "harmless_pref": "B-is-slightly-better"}
HELPSTEER3 = {
    "domain": "stem", "language": "english", "context": TALK_A[:1], "response1": "a", "response2": "b", "overall_preference": -2,
    "individual_preference": [{"score": -2, "reasoning": "r"}, {"score": 1, "reasoning": "r"}, {"score": 0, "reasoning": "r"}],
}  # fmt: skip
REPLY = {"role": "assistant", "lang": "en"}

# One row of each format, and the columns of it that no field of the record takes.
ROWS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "arena": (
        {
            "question_id": "7", "model_a": "m1", "model_b": "m2", "winner": "model_b", "judge": "arena_user_973", "conversation_a": TALK_A,
            "conversation_b": TALK_B, "turn": 1, "language": "English", "tstamp": 1.0,
        },
        {"tstamp"},
    ),
    "helpsteer3": (HELPSTEER3, {"individual_preference[].reasoning"}),
    "helpsteer3-individual": (HELPSTEER3, {"overall_preference", "individual_preference[].reasoning"}),
    "alpaca": (
        {
            "instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.75, "annotator": "gpt4", "generator_1": "m1",
            "generator_2": "m2", "price": 0.1,
        },
        {"price"},
    ),
    "llmbar": ({"input": "q", "output_1": "a", "output_2": "b", "label": 2}, set()),
    "multipref": (
        {
            "comparison_id": "7", "prompt_id": "p", "text": "q", "model_a": "m1", "completion_a": "a", "model_b": "m2", "completion_b": "b",
            "normal_worker_annotations": [WORKER], "expert_worker_annotations": [],
        },
        {"prompt_id"},
    ),
    "shp": (
        {
            "post_id": "7", "domain": "askbaking_train", "history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "score_A": 2,
            "score_B": 6, "score_ratio": 3.0, "seconds_difference": 5.0,
        },
        {"seconds_difference"},
    ),
    "webgpt": (
        {"question": {"full_text": "q", "id": "7", "dataset": "eli5"}, "answer_0": "a", "answer_1": "b", "score_0": -0.5, "score_1": 0.5},
        {"score_1"},
    ),
    "safe-rlhf": (
        {
            "prompt": "q", "response_0": "a", "response_1": "b", "is_response_0_safe": True, "is_response_1_safe": False,
            "better_response_id": 1, "safer_response_id": 0,
        },
        set(),
    ),
    "summarize": (
        {
            "info": {"id": "7", "post": "p", "title": "t", "subreddit": "r"}, "summaries": [{"text": " a", "policy": "m1"}, {"text": " b"}],
            "choice": 1, "worker": "w1", "batch": "b1", "extra": {"confidence": 8},
        },
        set(),
    ),
    "oasst-messages": ({"message_id": "1", "parent_id": None, "message_tree_id": "1", "text": "q", "role": "prompter"}, set()),
    "oasst": (
        {
            "message_tree_id": "7", "tree_state": "ready",
            "prompt": {
                "text": "q", "role": "prompter", "lang": "en", "replies": [
                    {**REPLY, "text": "b", "rank": 1, "replies": []},
                    {**REPLY, "text": "a", "rank": 0, "replies": [
                        {"text": "why?", "role": "prompter", "replies": [
                            {**REPLY, "text": "c", "rank": 0}, {**REPLY, "text": "d", "rank": 1}, {**REPLY, "text": "e"},
                        ]},
                    ]},
                ],
            },
        },
        {"tree_state", "prompt.replies[].lang"},
    ),
    "prism": (
        {
            "conversation_id": "c7", "user_id": "u1", "conversation_type": "unguided", "conversation_history": [
                {"turn": 0, "role": "user", "content": "q"},
                {"turn": 0, "role": "model", "content": "a", "model_name": "m1", "score": 80, "if_chosen": True},
                {"turn": 0, "role": "model", "content": "b", "model_name": "m2", "score": 20, "if_chosen": False},
                {"turn": 1, "role": "user", "content": "more"},
                {"turn": 1, "role": "model", "content": "c", "model_name": "m1", "score": 50, "if_chosen": False},
                {"turn": 1, "role": "model", "content": "d", "model_name": "m1", "score": 50, "if_chosen": True},
            ],
        },
        set(),
    ),
    "helpsteer2": ({"prompt": "q", "response": "a", "helpfulness": 3, "correctness": 4, "coherence": 4, "verbosity": 1}, set()),
    "nectar": (
        {
            "prompt": "\n\nHuman: q\n\nAssistant: ", "turns": 1, "good_natured": True,
            "answers": [{"answer": "b", "model": "m2", "rank": 2.0}, {"answer": "a", "model": "m1", "rank": 1.0}],
        },
        {"turns"},
    ),
    "distilabel": (
        {"instruction": "q", "generations": ["a", "b"], "ratings": [4, 5], "generation_models": ["m1", "m2"], "rationales": ["x", "y"]},
        {"rationales"},
    ),
    "label-studio": (
        {
            "id": 7, "data": {"prompt": "q", "answer1": "a", "answer2": "b"}, "annotations": [
                {"completed_by": 3, "result": [{"type": "pairwise", "value": {"selected": "right"}}]},
                {"completed_by": {"email": "x@y.z"}, "result": [{"type": "pairwise", "value": {"selected": "left"}}]},
                {"completed_by": 4, "was_cancelled": True, "result": [{"value": {"selected": "left"}}]},
            ],
        },
        {"annotations[].result[].type"},
    ),
    "argilla": (
        {
            "prompt": "q", "response1": "a", "response2": "b", "preference.responses": ["response2", "1", "tie", "1"],
            "preference.responses.users": ["u1", "u2", "u3", "u4"],
            "preference.responses.status": ["submitted", "submitted", "submitted", "discarded"], "status": "completed",
        },
        {"status"},
    ),
    "sharegpt": (
        {
            "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        set(),
    ),
    "kto": ({"prompt": "q", "completion": "a", "label": True}, set()),
}  # fmt: skip


def records(name: str, **changed: Any) -> list[Record]:
    return list(to_records({**ROWS[name][0], **changed}, name, HERE))


def comparisons(name: str, **changed: Any) -> list[Comparison]:
    found = records(name, **changed)
    assert all(isinstance(record, Comparison) for record in found)
    return found  # type: ignore[return-value]


def ranked(name: str, **changed: Any) -> list[RankedResponses]:
    found = records(name, **changed)
    assert all(isinstance(record, RankedResponses) for record in found)
    return found  # type: ignore[return-value]


def sides(record: Comparison) -> tuple[str, str, str]:
    return text(record.prompt), text(record.chosen), text(record.rejected)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "helpsteer3-individual"])
def test_formats_are_detected(name: str) -> None:
    assert detect(ROWS[name][0], HERE) == name


@pytest.mark.parametrize("name", [name for name in ROWS if name != "oasst-messages"])
def test_no_column_is_lost_in_silence(name: str, tmp_path: Path) -> None:
    row, unread = ROWS[name]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    notes = Notes()
    assert list(read(Source(str(path), name), notes=notes)) and set(notes.unread) == unread


def test_arena() -> None:
    (vote,) = comparisons("arena")
    assert sides(vote) == ("q", "b", "a") and vote.probability == 1
    assert (vote.annotator, vote.label_source, vote.id) == ("arena_user_973", "human", "7")
    assert vote.tags == {"chosen_model": "m2", "rejected_model": "m1", "winner": "model_b", "turn": "1", "language": "English"}
    for said in ("tie", "tie (bothbad)"):
        (tie,) = comparisons("arena", winner=said)
        assert sides(tie) == ("q", "a", "b") and tie.probability == 0.5 and tie.tags["winner"] == said
    (model,) = comparisons("arena", judge=["gpt-4", "pair"])
    assert model.label_source == "gpt-4_pair"
    with pytest.raises(
        RecordError, match="'winner' must be one of 'model_a', 'model_b', 'tie', 'tie .bothbad.', 'both_bad', 'bothbad', found 'left'"
    ):
        comparisons("arena", winner="left")


@pytest.mark.parametrize(("overall", "first", "strength"), [(-3, "a", 3), (-1, "a", 1), (0, "a", 0), (2, "b", 2)])
def test_helpsteer3(overall: int, first: str, strength: float) -> None:
    (record,) = comparisons("helpsteer3", overall_preference=overall)
    assert text(record.chosen) == first and record.strength == strength and record.probability == (0.5 if overall == 0 else 1)
    assert record.tags == {"domain": "stem", "language": "english", "individual": "-2 1 0"} and record.label_source == "human"
    with pytest.raises(RecordError, match="a preference must lie between -3 and 3, found 4"):
        comparisons("helpsteer3", overall_preference=4)


def test_helpsteer3_by_annotator() -> None:
    found = comparisons("helpsteer3-individual")
    assert [(text(each.chosen), each.strength, each.probability) for each in found] == [("a", 2, 1), ("b", 1, 1), ("a", 0, 0.5)]
    assert [each.tags["rater"] for each in found] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("preference", "first", "probability"), [(1, "a", 1), (2.0, "b", 1), (1.5, "a", 0.5), (0, "a", 0.5), (1.75, "b", 0.75), (1.2, "a", 0.8)]
)
def test_alpaca_preferences_are_probabilities(preference: float, first: str, probability: float) -> None:
    (record,) = comparisons("alpaca", preference=preference)
    assert text(record.chosen) == first and record.probability == pytest.approx(probability, abs=1e-12)
    assert record.annotator == record.label_source == "gpt4"
    models = ("m1", "m2") if first == "a" else ("m2", "m1")
    assert (record.tags["chosen_model"], record.tags["rejected_model"]) == models


def test_alpaca_annotators_are_comparisons_of_their_own() -> None:
    found = comparisons("alpaca", preference={"x": 1.0, "y": 2.0, "z": None})
    assert [(each.annotator, text(each.chosen)) for each in found] == [("x", "a"), ("y", "b")]
    for wrong, problem in ((3, "must lie between 1"), (None, "no 'preference'"), ({"x": None}, "'preference' holds no verdict")):
        with pytest.raises(RecordError, match=problem):
            comparisons("alpaca", preference=wrong)


def test_llmbar() -> None:
    assert [sides(*comparisons("llmbar", label=label)) for label in (1, 2)] == [("q", "a", "b"), ("q", "b", "a")]


def test_multipref() -> None:
    found = comparisons("multipref")
    assert [(each.criterion, text(each.chosen), each.strength, each.probability) for each in found] == [
        ("overall", "a", 2, 1), ("helpful", "a", 0, 0.5), ("harmless", "b", 1, 1),
    ]  # fmt: skip
    assert {(each.annotator, each.group, each.label_source) for each in found} == {("w1", "normal", "human")}
    experts = comparisons("multipref", normal_worker_annotations=None, expert_worker_annotations=[WORKER])
    assert {each.group for each in experts} == {"expert"}


def test_shp() -> None:
    (record,) = comparisons("shp")
    assert sides(record) == ("q", "b", "a") and (record.strength, record.group, record.id) == (3.0, "askbaking", "7")
    assert text(comparisons("shp", labels=1)[0].chosen) == "a"


def test_webgpt() -> None:
    (record,) = comparisons("webgpt")
    assert sides(record) == ("q", "b", "a") and record.strength == 0.5 and record.id == "7" and record.tags == {"dataset": "eli5"}
    assert comparisons("webgpt", score_0=0)[0].probability == 0.5


def test_two_labels_are_two_criteria(tmp_path: Path) -> None:
    better, safer = comparisons("safe-rlhf")
    assert (better.criterion, sides(better)) == ("better", ("q", "b", "a"))
    assert (safer.criterion, sides(safer)) == ("safer", ("q", "a", "b"))
    assert better.tags == {"chosen_safe": "False", "rejected_safe": "True"} == {
        "chosen_safe": safer.tags["rejected_safe"], "rejected_safe": safer.tags["chosen_safe"],
    }  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS["safe-rlhf"][0]) + "\n")
    (chosen,) = read(Source(str(path), criterion="safer"))
    assert isinstance(chosen, Comparison) and chosen.criterion == "safer"
    with pytest.raises(DataError, match=r"no record has a label for criterion 'kind' \(found: better, safer\)"):
        list(read(Source(str(path), criterion="kind")))


def test_several_criteria_together_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS["safe-rlhf"][0]) + "\n")
    with caplog.at_level("INFO"):
        assert len(list(read(path))) == 2
    assert "labels of several criteria are used together (better 1, safer 1); criterion selects one" in caplog.text


def test_summarize() -> None:
    (record,) = comparisons("summarize")
    assert sides(record) == ("SUBREDDIT: r/r\nTITLE: t\nPOST: p\nTL;DR:", "b", "a")
    assert record.annotator == "w1" and record.tags == {"rejected_model": "m1", "confidence": "8", "batch": "b1"}


def test_oasst_siblings_are_ranked_below_their_thread() -> None:
    first, second = ranked("oasst")
    assert text(first.prompt) == "q" and [text(each) for each in first.responses] == ["b", "a"] and first.scores == (-1, 0)
    assert [(m.role, m.content) for m in second.prompt] == [("user", "q"), ("assistant", "a"), ("user", "why?")]
    assert [text(each) for each in second.responses] == ["c", "d"] and second.scores == (0, -1) and second.tags == {"lang": "en"}
    with pytest.raises(RecordError, match="a single message of an OpenAssistant tree; use the release in trees"):
        records("oasst-messages")


def test_prism_turns() -> None:
    first, second = ranked("prism")
    assert first.scores == (80, 20) and second.scores == (50, 50) and (first.annotator, first.id, second.id) == ("u1", "c7:0", "c7:1")
    assert [m.content for m in second.prompt] == ["q", "a", "more"] and first.tags["models"] == "m1, m2"


def test_ratings_by_aspect_are_gathered_by_prompt(tmp_path: Path) -> None:
    row = ROWS["helpsteer2"][0]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (
        row, {**row, "prompt": "other"}, {**row, "response": "b", "helpfulness": 1, "coherence": None},
    )))  # fmt: skip
    both, alone = read(path)
    assert isinstance(both, RankedResponses) and isinstance(alone, RankedResponses)
    assert [text(each) for each in both.responses] == ["a", "b"] and len(alone.responses) == 1 and both.source.endswith(":1")
    assert both.scores is None and both.ratings["helpfulness"] == (3, 1) and math.isnan(both.ratings["coherence"][1])
    helpful, _ = read(Source(str(path), criterion="helpfulness"))
    assert isinstance(helpful, RankedResponses) and helpful.scores == (3, 1) and helpful.criterion == "helpfulness"
    coherent, _ = read(Source(str(path), criterion="coherence"))
    assert isinstance(coherent, RankedResponses) and coherent.scores == (4,), "a response without a rating is left out"


def test_nectar() -> None:
    (record,) = ranked("nectar")
    assert record.prompt == (Message("user", "q"),) and record.scores == (-2, -1) and record.tags["models"] == "m2, m1"


def test_distilabel() -> None:
    assert ranked("distilabel")[0].scores == (4, 5) and ranked("distilabel", ratings=[4, None])[0].scores is None


def test_label_studio() -> None:
    found = comparisons("label-studio")
    assert [(sides(each), each.annotator) for each in found] == [(("q", "b", "a"), "3"), (("q", "a", "b"), "x@y.z")]
    flat = {"prompt": "q", "answer1": "a", "answer2": "b", "comparison": {"selected": "right"}, "annotator": 3}
    assert detect(flat, HERE) == "label-studio"
    (record,) = to_records(flat, "auto", HERE)
    assert isinstance(record, Comparison) and sides(record) == ("q", "b", "a") and record.annotator == "3"


def test_argilla() -> None:
    found = comparisons("argilla")
    assert [(text(each.chosen), each.probability, each.annotator) for each in found] == [("b", 1, "u1"), ("a", 1, "u2"), ("a", 0.5, "u3")]
    order = [{"value": "response2", "rank": 1}, {"value": "response1", "rank": 2}]
    row = {"prompt": "q", "response1": "a", "response2": "b", "order.responses": [order], "order.responses.users": ["u"]}
    (record,) = to_records(row, "auto", HERE)
    assert isinstance(record, RankedResponses) and [text(each) for each in record.responses] == ["b", "a"] and record.scores == (-1, -2)
    with pytest.raises(RecordError, match="the label 'best' names neither 'response1' nor 'response2'"):
        comparisons("argilla", **{"preference.responses": ["best", "1", "1", "1"]})
    with pytest.raises(RecordError, match="'preference.responses' and its columns 'users' and 'status' must be lists of equal length"):
        comparisons("argilla", **{"preference.responses": ["1", "2"]})  # whose answers?


def test_argilla_with_other_questions() -> None:
    """Comments and ratings beside a preference are no preferences, even where a rating looks like the number of a response."""
    others = {"comment.responses": ["good", "ok"], "quality.responses": [1, 2]}
    row = {"prompt": "q", "response1": "a", "response2": "b", "best.responses": ["response2", "1"], **others}
    found = list(to_records(row, "auto", HERE))
    assert [(text(each.chosen), each.criterion) for each in found if isinstance(each, Comparison)] == [("b", ""), ("a", "")]
    assert all(each.tags == {"comment": "good; ok", "quality": "1; 2"} for each in found)
    both = list(to_records({**row, "safest.responses": ["1"]}, "auto", HERE))
    assert [each.criterion for each in both] == ["best", "best", "safest"]


def test_prism_numbers_turns_as_text() -> None:
    """Tables and other people's exports write numbers as text."""
    history = [{**turn, "turn": str(turn["turn"])} for turn in ROWS["prism"][0]["conversation_history"]]
    assert ranked("prism", conversation_history=history) == ranked("prism")


def test_what_is_no_name_becomes_a_tag() -> None:
    """A column `annotator` can hold a number, as tables write them, or an object; neither disappears."""
    row = {**PLAIN, "annotator": 3.0, "group": {"country": "NL", "age": None}, "criterion": True}
    (record,) = to_records(row, "auto", HERE)
    assert (record.annotator, record.group, record.criterion) == ("3", "", "")
    assert record.tags == {"group": "{'country': 'NL'}", "criterion": "True"}


def test_unread_fields_of_objects_are_listed(tmp_path: Path) -> None:
    """Fields of an object count as read if the format reads them in one object of a list; what it skips in all of them is named."""
    completions = [{"response": name, "model": "m", "annotations": {"x": {"Rating": "3", "Rationale": "r"}}} for name in "ab"]
    notes = Notes()
    list(read(write(tmp_path / "a.jsonl", [{"instruction": "q", "completions": completions}]), notes=notes))
    assert notes.unread == {"completions[].model": 1, "completions[].annotations.x.Rationale": 1}
    chat = {"prompt": [{"role": "user", "content": "q", "date": "today"}], "chosen": "a", "rejected": "b"}
    notes = Notes()
    list(read(write(tmp_path / "b.jsonl", [chat]), notes=notes))
    assert notes.unread == {"prompt[].date": 1}


def test_sharegpt() -> None:
    (record,) = comparisons("sharegpt")
    assert [m.role for m in record.prompt] == ["system", "user"] and sides(record)[1:] == ("a", "b")
    call = {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}
    tools = '[{"type": "function", "function": {"name": "f"}}]'
    (called,) = comparisons("sharegpt", chosen=call, tools=tools)
    assert called.chosen[0].fields["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    assert called.template_kwargs == {"tools": json.loads(tools)}
    with pytest.raises(RecordError, match="'chosen' must be a turn of the assistant .from: gpt., found user"):
        comparisons("sharegpt", chosen={"from": "human", "value": "x"})


def test_kto(tmp_path: Path) -> None:
    row = ROWS["kto"][0]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (row, {**row, "prompt": "p"}, {**row, "completion": "b", "label": False})))
    both, alone = read(path)
    assert isinstance(both, RankedResponses) and both.scores == (1, 0) and isinstance(alone, RankedResponses) and alone.scores == (1,)
    turns = {"messages": TALK_A, "label": False}
    (record,) = to_records(turns, "auto", HERE)
    assert isinstance(record, RankedResponses) and record.scores == (0,) and text(record.prompt) == "q"


def test_columns_that_every_format_may_have() -> None:
    common = {"annotator": "x", "group": "g", "criterion": "c", "label_source": "human"}
    (record,) = to_records({"prompt": "q", "chosen": "a", "rejected": "b", "strength": 2, **common}, "auto", HERE)
    assert isinstance(record, Comparison) and {name: getattr(record, name) for name in common} == common and record.strength == 2
    with pytest.raises(RecordError, match="the strength of a preference must be 0 or more, got -1"):
        to_records({"prompt": "q", "chosen": "a", "rejected": "b", "strength": -1}, "auto", HERE)


# ---- detection


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PLAIN = {"prompt": "q", "chosen": "a", "rejected": "b"}
BARE = {"chosen": "a", "rejected": "b"}


def test_several_rows_decide(tmp_path: Path) -> None:
    """An odd first row does not decide about the others."""
    path = write(tmp_path / "a.jsonl", [BARE, PLAIN, PLAIN])
    skipped: list[RecordError] = []
    notes = Notes()
    assert len(list(read(path, "skip", skipped, notes))) == 2 and notes.formats == {"standard-explicit": 2}
    assert [str(error) for error in skipped] == [
        f"{path}:1: no 'prompt' (found: chosen, rejected): most of the first rows are standard-explicit, this row looks like "
        "standard-implicit; if it has another name, say so with columns: {prompt: NAME}"
    ]


def test_rows_of_another_format_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hh = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    notes = Notes()
    found = list(read(write(tmp_path / "a.jsonl", [BARE, BARE, hh]), notes=notes))
    assert len(found) == 3 and notes.others == {"hh": 1}
    assert "read as standard-implicit, but some rows look like other formats (1 like hh)" in caplog.text


def test_a_rival_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Alpaca's annotations with a column `label` fit LLMBar, too, whose label says something else."""
    row = {"instruction": "q", "input": "p", "output_1": "a", "output_2": "b", "preference": 1, "label": 2}
    notes = Notes()
    with caplog.at_level("INFO"):
        list(read(write(tmp_path / "a.jsonl", [row] * 3), notes=notes))
    assert notes.rivals == {("alpaca", "llmbar"): 1} and "read as alpaca; its columns fit llmbar too" in caplog.text
    notes = Notes()
    list(read(write(tmp_path / "b.jsonl", [ROWS["arena"][0]] * 3), notes=notes))
    assert notes.rivals == Counter()


def test_other_packages_add_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a variable of an imported module. Kept records are those of its code: after an edit, they are read anew."""
    code = """
        from prefrep.data.formats.base import Format, has
        from prefrep.records import Comparison, Message

        def convert(row):
            return Comparison((), (Message("assistant", row["stars"] + "END"),), (Message("assistant", "-"),))

        MORE_STARS = Format("", has("stars"), convert)
    """
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("prefrep.declared._imported", {})
    for number, end in enumerate(("!", "?")):
        (tmp_path / f"stellar{number}.py").write_text(dedent(code).replace("END", end))
        import_modules([f"stellar{number}"])
        assert detect({"stars": "***", **PLAIN}, HERE) == "more-stars" and list(every()) == ["more-stars", *FORMATS]
        sources = [Source(str(write(tmp_path / "rows.jsonl", [{"stars": "***"}])))]
        (record,), _ = read_kept(str(tmp_path / "cache"), about_records(sources, "error", ""), sources, 0, "error", "")
        assert isinstance(record, Comparison) and text(record.chosen) == f"***{end}"
    assert Source("a", "more-stars").format == "more-stars"


@pytest.mark.parametrize("given", ["inf", "1" * 400, "nan?", math.inf])
def test_ratings_are_finite(given: object) -> None:
    """Python reads "inf" as a number; as the best score of a prompt it would win by a margin that nothing can compute with."""
    with pytest.raises(RecordError, match="the rating 'helpfulness' must be a number or N/A"):
        records("helpsteer2", helpfulness=given)
    with pytest.raises(RecordError, match="scores"):
        list(to_records({"prompt": "q", "responses": ["a", "b"], "scores": [given, 1]}, "auto", HERE))
