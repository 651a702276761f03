"""Every published format becomes the record it stands for, and every bad row a sentence."""

import math
from typing import Any

import pytest
from data import test_public_formats

from prefrep.data.formats import FORMATS, detect, to_record
from prefrep.errors import ConfigError, RecordError
from prefrep.records import Comparison, Message, Messages, RankedResponses

HERE = "f.jsonl:1"


def user(content: str) -> Message:
    return Message("user", content)


def bot(content: str) -> Message:
    return Message("assistant", content)


def chat(*turns: str) -> list[dict[str, str]]:
    """Messages, user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def compared(prompt: Messages, chosen: str, rejected: str) -> Comparison:
    return Comparison(prompt, (bot(chosen),), (bot(rejected),), source=HERE)


PAIRS: list[tuple[str, dict[str, Any], Comparison]] = [
    ("standard-implicit", {"chosen": "2+2=4", "rejected": "2+2=5"}, compared((), "2+2=4", "2+2=5")),
    ("standard-explicit", {"prompt": "2+2", "chosen": "4", "rejected": "5"}, compared((user("2+2"),), "4", "5")),
    (
        "conversational-implicit",
        {"chosen": chat("hi", "hello", "2+2", "4"), "rejected": chat("hi", "hello", "2+2", "5")},
        compared((user("hi"), bot("hello"), user("2+2")), "4", "5"),
    ),
    (
        "conversational-explicit",
        {"prompt": chat("2+2"), "chosen": chat("x", "4")[1:], "rejected": chat("x", "5")[1:]},
        compared((user("2+2"),), "4", "5"),
    ),
    # A list prompt with text responses, and no id or subset: not RewardBench, so roles stay.
    (
        "conversational-explicit",
        {"prompt": [{"role": "system", "content": "be short"}, *chat("2+2")], "chosen": "4", "rejected": "5"},
        compared((Message("system", "be short"), user("2+2")), "4", "5"),
    ),
    # UltraFeedback binarised: a text prompt that the conversations repeat.
    (
        "conversational-implicit",
        {"prompt": "2+2", "chosen": chat("2+2", "4"), "rejected": chat("2+2", "5"), "score_chosen": 8.0},
        compared((user("2+2"),), "4", "5"),
    ),
    (
        "hh",
        {"chosen": "\n\nHuman: a\n\nb?\n\nAssistant: yes", "rejected": "\n\nHuman: a\n\nb?\n\nAssistant: no "},
        compared((user("a\n\nb?"),), "yes", "no"),
    ),
    ("hh", {"prompt": "\n\nHuman: a?\n\nAssistant:", "chosen": " yes", "rejected": " no"}, compared((user("a?"),), "yes", "no")),
    ("gpm", {"instruction": "2+2", "chosen": "4", "reject": "5", "label": 0}, compared((user("2+2"),), "4", "5")),
    ("gpm", {"instruction": "2+2", "chosen": {"response": "4"}, "reject": {"response": "5"}}, compared((user("2+2"),), "4", "5")),
    (
        "rewardbench",
        {"id": 7, "subset": "hep-cpp", "prompt": "2+2", "chosen": "4", "rejected": "5"},
        Comparison((user("2+2"),), (bot("4"),), (bot("5"),), subset="hep-cpp", id="7", source=HERE),
    ),
]


@pytest.mark.parametrize(("format", "row", "record"), PAIRS)
def test_pairs_are_detected_and_read(format: str, row: dict[str, Any], record: Comparison) -> None:
    assert detect(row, HERE) == format
    assert to_record(row, "auto", HERE) == record == to_record(row, format, HERE)


def test_every_format_that_can_be_detected_is_tested() -> None:
    ranked = {"ultrafeedback", "ranked", "rewardbench2"}  # below
    benchmarks = {"rmbench", "judgebench", "rmb", "ppe"}  # tests/data/test_benchmark_formats.py
    steps = {"steps", "first-wrong", "processbench", "stepwise"}  # tests/labels/test_steps.py
    named_only = {"openrlhf", "rlhflow"}
    assert {format for format, _, _ in PAIRS} | ranked | benchmarks | steps | named_only | set(test_public_formats.ROWS) == set(FORMATS)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_openrlhf_reads_trls_four_shapes(place: int) -> None:
    _, row, record = PAIRS[place]
    assert to_record(row, "openrlhf", HERE) == record


def test_rewardbench_gives_roles_by_parity() -> None:
    turns = [{"role": "user", "content": each} for each in ("a", "b", "c")]
    record = to_record({"id": "1", "subset": "s", "prompt": turns, "chosen": "x", "rejected": "y"}, "auto", HERE)
    assert record.prompt == (user("a"), bot("b"), user("c"))


def test_rewardbench_with_a_system_turn_is_another_chat() -> None:
    turns = [{"role": "system", "content": "s"}, *chat("a")]
    record = to_record({"id": "1", "subset": "s", "prompt": turns, "chosen": "x", "rejected": "y"}, "auto", HERE)
    assert record.prompt == (Message("system", "s"), user("a"))


def test_rewardbench_with_a_tool_s_turn_is_another_chat() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "tool", "content": "42"}, {"role": "user", "content": "so?"}]
    record = to_record({"id": "1", "subset": "s", "prompt": turns, "chosen": "x", "rejected": "y"}, "auto", HERE)
    assert [turn.role for turn in record.prompt] == ["user", "tool", "user"]


def test_alpaca_s_input_is_part_of_the_prompt() -> None:
    row = {"instruction": "Translate", "input": "cat", "chosen": "chat", "rejected": "chien"}
    assert to_record(row, "auto", HERE) == compared((user("Translate\ncat"),), "chat", "chien")
    assert to_record({**row, "input": ""}, "auto", HERE) == compared((user("Translate"),), "chat", "chien")


def test_a_transcript_that_both_sides_repeat_is_read_once() -> None:
    before = "\n\nHuman: q\n\nAssistant:"
    for sides in ((" a", " b"), (f"{before} a", f"{before} b")):
        row = dict(zip(("chosen", "rejected"), sides, strict=True))
        assert to_record({"prompt": before, **row}, "auto", HERE) == compared((user("q"),), "a", "b")


def test_rewardbench2_puts_correct_answers_first() -> None:
    row = {"id": "tied:3", "subset": "Ties", "prompt": "a colour", "chosen": ["red", "blue"], "rejected": ["dog"], "num_correct": 2}
    record = to_record(row, "auto", HERE)
    answers = ((bot("red"),), (bot("blue"),), (bot("dog"),))
    assert record == RankedResponses((user("a colour"),), answers, (1.0, 1.0, 0.0), subset="Ties", id="tied:3", source=HERE)
    assert detect(row, HERE) == "rewardbench2"


def completion(text: str, overall: float | None = None, **marks: object) -> dict[str, Any]:
    made: dict[str, Any] = {
        "response": text,
        "annotations": {aspect: {"Rating": mark, "Rationale": "..."} for aspect, mark in marks.items()},
    }
    return made if overall is None else {**made, "overall_score": overall}


def test_ultrafeedback_ratings_and_missing_ones() -> None:
    row = {"instruction": "q", "completions": [completion("a", honesty="4", truthfulness="N/A"), completion("b", honesty=2)]}
    record = to_record(row, "auto", HERE)
    assert isinstance(record, RankedResponses) and record.scores is None and record.prompt == (user("q"),)
    assert record.responses == ((bot("a"),), (bot("b"),))
    assert record.ratings["honesty"] == (4.0, 2.0)
    assert all(math.isnan(mark) for mark in record.ratings["truthfulness"])  # N/A, and absent


def test_ultrafeedback_scores() -> None:
    both = [{**completion("a", 7.5), "fine-grained_score": 1.0}, {**completion("b", 3.0), "fine-grained_score": 2.0}]
    partly = [both[0], {key: value for key, value in both[1].items() if key != "overall_score"}]
    scores = []
    for completions in (both, partly, [both[0], completion("b")]):
        record = to_record({"instruction": "q", "completions": completions}, "ultrafeedback", HERE)
        assert isinstance(record, RankedResponses)
        scores.append(record.scores)
    assert scores == [(7.5, 3.0), (1.0, 2.0), None]


@pytest.mark.parametrize(
    ("extra", "scores"),
    [({}, None), ({"scores": [1, 2.5, 1]}, (1.0, 2.5, 1.0)), ({"ranking": [2, 1, 2]}, (-2.0, -1.0, -2.0)), ({"scores": None}, None)],
)
def test_ranked_lists(extra: dict[str, Any], scores: tuple[float, ...] | None) -> None:
    row = {"prompt": "q", "responses": ["a", "b", chat("x", "c")[1:]], **extra}
    assert to_record(row, "auto", HERE) == RankedResponses((user("q"),), ((bot("a"),), (bot("b"),), (bot("c"),)), scores, source=HERE)


def test_optional_columns() -> None:
    row = {
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
        "margin": 1,
        "weight": 0.5,
        "subset": "s",
        "id": 3,
        "tags": {"lang": "de", "n": 2},
    }
    record = to_record({**row, "label": 0.2, "chosen_probs": 9.0}, "auto", HERE)
    assert isinstance(record, Comparison)
    assert (record.margin, record.weight, record.subset, record.id, record.probability) == (1.0, 0.5, "s", "3", 1.0)
    assert record.tags == {"lang": "de", "n": "2"}
    for name in ("probability", "soft_label"):
        soft = to_record({**row, name: 0.25}, "auto", HERE)
        assert isinstance(soft, Comparison) and soft.probability == 0.25
    assert to_record({**row, "probability": None, "margin": None}, "auto", HERE).id == "3"  # null columns are absent ones


def test_equal_conversations_keep_their_response() -> None:
    same = {"chosen": chat("q", "a"), "rejected": chat("q", "a")}
    assert to_record(same, "auto", HERE) == compared((user("q"),), "a", "a")


def test_one_conversation_goes_on() -> None:
    """[q a] against [q a q2 a2]: the response of the shorter one is still its last turn."""
    record = to_record({"chosen": chat("q", "a"), "rejected": chat("q", "a", "q2", "a2")}, "auto", HERE)
    assert isinstance(record, Comparison)
    assert (record.prompt, record.chosen, record.rejected) == ((user("q"),), (bot("a"),), (bot("a"), user("q2"), bot("a2")))


def test_a_prompt_repeated_in_the_responses_is_read_once() -> None:
    row = {"prompt": chat("q"), "chosen": chat("q", "a"), "rejected": chat("q", "b")}
    assert to_record(row, "auto", HERE) == compared((user("q"),), "a", "b")


def test_content_in_parts() -> None:
    row = {"chosen": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, *chat("", "a")[1:]], "rejected": chat("q", "b")}
    assert to_record(row, "auto", HERE) == compared((user("q"),), "a", "b")


def test_system_prompt_only_where_there_is_none() -> None:
    first = to_record({"prompt": "q", "chosen": "a", "rejected": "b"}, "auto", HERE, system="be kind")
    assert first.prompt == (Message("system", "be kind"), user("q"))
    own = [{"role": "system", "content": "own"}, *chat("q")]
    assert to_record({"prompt": own, "chosen": "a", "rejected": "b"}, "auto", HERE, system="be kind").prompt[0].content == "own"
    assert to_record({"chosen": "a", "rejected": "b"}, "auto", HERE, system="be kind").prompt == ()
    column = {"system": "be brief", "prompt": "q", "chosen": "a", "rejected": "b"}
    assert to_record(column, "auto", HERE, system="be kind").prompt == (Message("system", "be brief"), user("q"))
    assert to_record({**column, "system": " "}, "auto", HERE).prompt == (user("q"),)
    assert to_record({**column, "prompt": own}, "auto", HERE).prompt[0].content == "own"


BASE = {"prompt": "q", "chosen": "a", "rejected": "b"}
RB = {"id": "1", "subset": "s"}
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("auto", {"prompt": "q", "chosen": "a"}, "no 'rejected' (found: prompt, chosen); if it has another name"),
    ("auto", {"prompt": "q", "rejected": "a"}, "no 'chosen' (found: prompt, rejected)"),
    ("auto", {**BASE, "rejected": None}, "no 'rejected' (found: prompt, chosen)"),
    ("auto", {"question": "q", "good": 1}, "no format fits the columns found: question (text), good (a number); rename some"),
    ("auto", {}, "no format fits the columns found: none"),
    ("auto", {"chosen": 1, "rejected": 2}, "no format fits the columns found: chosen (a number), rejected (a number)"),
    ("standard-explicit", {"chosen": "a", "rejected": "b"}, "no 'prompt' (found: chosen, rejected)"),
    ("standard-explicit", {**BASE, "prompt": chat("q")}, "'prompt' must be text, found a list"),
    ("standard-explicit", {**BASE, "chosen": chat("q")}, "'chosen' must be text, found a list"),
    ("auto", {**BASE, "prompt": ""}, "'prompt' is empty; fill it in"),
    ("auto", {**BASE, "prompt": " \n"}, "'prompt' is empty"),
    ("standard-explicit", {**BASE, "prompt": None}, "'prompt' is empty"),
    ("conversational-explicit", {**BASE, "prompt": []}, "'prompt' is empty"),
    ("auto", {**BASE, "probability": 1.5}, "P(chosen > rejected) must lie in [0, 1], got 1.5"),
    ("auto", {**BASE, "probability": 1, "soft_label": 0}, "'probability' and 'soft_label' both say P(chosen > rejected); keep one"),
    ("auto", {**BASE, "margin": "big"}, "'margin' must be a number, found 'big'"),
    ("auto", {**BASE, "margin": math.nan}, "'margin' must be a number, found nan"),
    ("auto", {**BASE, "margin": 10**400}, "'margin' is too large a number to compute with"),
    ("auto", {**BASE, "margin": math.inf}, "'margin' is too large a number to compute with"),
    ("auto", {**BASE, "weight": True}, "'weight' must be a number, found True"),
    ("auto", {**BASE, "weight": -1}, "a weight must be 0 or more"),
    ("auto", {**BASE, "tags": ["x"]}, "'tags' must be an object of names to values, found a list"),
    ("auto", {"chosen": [], "rejected": chat("q", "a")}, "'chosen' holds no messages"),
    ("auto", {"chosen": chat("q"), "rejected": chat("q", "a")}, "the response in 'chosen' has no assistant turn"),
    ("auto", {"prompt": chat("q"), "chosen": chat("q"), "rejected": chat("q", "a")}, "the response in 'chosen' has no assistant turn"),
    ("auto", {"chosen": [{"from": "human", "value": "q"}], "rejected": chat("q")}, "'chosen' needs role and content (found: from, value)"),
    ("auto", {"chosen": [{"role": "user", "content": 1}], "rejected": chat("q")}, "role and content of a message must be text"),
    ("conversational-implicit", {"chosen": "a", "rejected": "b"}, "'chosen' must be a list of messages, found text"),
    ("conversational-implicit", {"chosen": ["a"], "rejected": ["b"]}, "a message in 'chosen' needs role and content (found: text)"),
    ("hh", {"chosen": "a", "rejected": "b"}, "'chosen' is not a transcript: it must begin with 'Human:'"),
    ("hh", {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a\n\nAssistant: b"}, "the response in 'chosen' has no assistant turn"),
    ("rlhflow", {"chosen": chat("q"), "rejected": chat("q", "a")}, "the turns of 'chosen' do not alternate"),
    ("rlhflow", {"chosen": chat("q", ""), "rejected": chat("q", "a")}, "'chosen' has an empty turn"),
    ("rlhflow", {"chosen": chat("q", "a"), "rejected": chat("r", "a")}, "'chosen' and 'rejected' differ before the last turn"),
    ("auto", {"instruction": "", "chosen": "a", "reject": "b"}, "'instruction' is empty"),
    ("auto", {"instruction": "q", "chosen": {"text": "a"}, "reject": "b"}, "no 'chosen.response' (found: chosen.text)"),
    ("gpm", {"instruction": "q", "chosen": "a"}, "no 'reject' (found: instruction, chosen)"),
    ("gpm", {"chosen": "a", "reject": "b"}, "no 'instruction' (found: chosen, reject)"),
    ("auto", {**BASE, **RB, "prompt": chat("q", "a")}, "a prompt of 2 turns ends with an assistant turn"),
    ("rewardbench", {**RB, "chosen": "a", "rejected": "b"}, "no 'prompt'"),
    (
        "rewardbench2",
        BASE,
        "'chosen' must be a list of texts, found text; prefrep eval rewardbench reads one answer each",
    ),
    ("rewardbench2", {"prompt": "q", "chosen": [], "rejected": ["a"]}, "'chosen' holds no answer"),
    ("auto", {"prompt": "q", "chosen": ["a"], "rejected": ["b"], "num_correct": 2}, "num_correct is 2, but 'chosen' holds 1"),
    ("auto", {"instruction": "q", "completions": []}, "'completions' must be a non-empty list of objects with a response"),
    ("auto", {"instruction": "q", "completions": [{"model": "m"}]}, "no 'response' (found: model)"),
    ("auto", {"instruction": "q", "completions": [{"response": "a", "annotations": [1]}]}, "'annotations' must be an object of aspects"),
    ("auto", {"instruction": "q", "completions": [completion("a", honesty="high")]}, "the rating 'honesty' must be a number or N/A"),
    ("auto", {"prompt": "q", "responses": []}, "no responses"),
    ("auto", {"prompt": "q", "responses": "a"}, "'responses' must be a list, found text"),
    ("auto", {"prompt": "q", "responses": ["a", "b"], "scores": [1]}, "1 scores for 2 responses"),
    ("auto", {"prompt": "q", "responses": ["a"], "scores": [None]}, "'scores' must be a number, found None"),
    ("auto", {"prompt": "q", "responses": ["a"], "scores": [1], "ranking": [1]}, "both 'scores' and 'ranking' are given; keep one"),
    ("auto", {"responses": ["a"]}, "no 'prompt' (found: responses)"),
]


@pytest.mark.parametrize(("format", "row", "sentence"), BAD)
def test_bad_rows_say_where_and_what(format: str, row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecordError) as caught:
        to_record(row, format, HERE)
    said = str(caught.value)
    assert said.startswith(f"{HERE}: ") and sentence in said and "\n" not in said


def test_no_such_format() -> None:
    with pytest.raises(ConfigError, match="there is no format 'trl'; known: auto, arena"):
        to_record(BASE, "trl", HERE)


@pytest.mark.parametrize("name", ["image", "images", "videos", "audio"])
def test_rows_with_pictures_beside_their_texts_are_refused(name: str) -> None:
    media = [{"bytes": "x"}]
    with pytest.raises(RecordError, match=f"it has '{name}', and prefrep's models read text only"):
        to_record({**BASE, name: media}, "auto", HERE)
    for nothing in (None, [], "", "a name of a file, which inspect lists as not read"):
        assert to_record({**BASE, name: nothing}, "auto", HERE) == to_record(BASE, "auto", HERE)
