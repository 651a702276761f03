"""Formats of rated and ranked responses: HelpSteer2, KTO, Nectar, PRISM, OpenAssistant trees, distilabel.

They follow the documented columns of the published data sets; none was tested on real rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefrep.data.fields import check_answers, named, number, prompt_of, rating, response, text, text_response, transcript
from prefrep.data.formats.base import Format, has, is_transcript
from prefrep.data.formats.verdicts import flag
from prefrep.data.turns import MisfitError, Row, conversation, kind, need
from prefrep.records import DESIRABLE, Message, Messages, RankedResponses, Record

HELPSTEER2_ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def _helpsteer2(row: Row) -> Record:
    """Read a rated response of HelpSteer2. There is no overall score; `criterion` of the source names the aspect to use."""
    need(row, "prompt", "response", "helpfulness")
    found = {name: (rating(row[name], name),) for name in HELPSTEER2_ASPECTS if name in row}
    prompt, answer = prompt_of(row), text_response(row["response"], "response")
    return RankedResponses(prompt, (answer,), None, found, **{**named(row), "label_source": "human"})


def _kto(row: Row) -> Record:
    """Read a response with a label, true (desirable) or false, which becomes the score 1 or 0 of criterion `desirable`.

    Prompts with both labels become pairs; the others train models with one reward per response (`data.trees.NOBODY`).
    """
    if "completion" not in row and "messages" in row:
        turns = conversation(row["messages"], "messages")
        prompt, answer = turns[:-1], turns[-1:]
    else:
        need(row, "completion")
        prompt, answer = prompt_of(row), response(row["completion"], "completion")
    name = "label" if "label" in row else "kto_tag"
    check_answers([("messages" if "messages" in row else "completion", answer)])
    common = named(row)
    common["criterion"] = common.get("criterion") or DESIRABLE
    return RankedResponses(prompt, (answer,), (float(flag(row.get(name), name)),), **common)


def _objects(row: Row, name: str, *needed: str) -> list[Mapping[str, Any]]:
    found = row.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(each, Mapping) for each in found):
        raise MisfitError(f"'{name}' must be a non-empty list of objects, found {kind(found)}")
    for each in found:
        need(each, *needed)
    return found


def _ranked(row: Mapping[str, Any], prompt: Messages, answers: list[str], scores: list[float] | None, **more: Any) -> RankedResponses:
    common = named(row)
    common["tags"] = common["tags"] | {name: str(value) for name, value in more.pop("tags", {}).items() if value not in (None, "")}
    given = {name: value for name, value in more.items() if value}
    sides = tuple(text_response(answer, "answer") for answer in answers)
    return RankedResponses(prompt, sides, None if scores is None else tuple(scores), **{**common, **given})


def _nectar(row: Row) -> Record:
    """Read Nectar: seven answers ranked by GPT-4, 1 the best; equal ranks are ties."""
    answers = _objects(row, "answers", "answer", "rank")
    prompt = transcript(row["prompt"].rstrip().removesuffix("\n\nAssistant:"), "prompt") if is_transcript(row["prompt"]) else prompt_of(row)
    scores = [-number(each["rank"], "rank") for each in answers]
    tags = {"models": models_of(answers), "good_natured": row.get("good_natured")}
    return _ranked(row, prompt, [each["answer"] for each in answers], scores, tags=tags, label_source="gpt-4")


def models_of(answers: list[Mapping[str, Any]], name: str = "model") -> str:
    """Return the authors of answers, one name each; empty if none is known."""
    return ", ".join(str(each.get(name) or "?") for each in answers) if any(each.get(name) for each in answers) else ""


def _prism(row: Row) -> list[RankedResponses]:
    """Read a conversation of PRISM: each turn's answers with the participant's scores; the chosen one continues the conversation."""
    history = _objects(row, "conversation_history", "turn", "role", "content")
    found: list[RankedResponses] = []
    prompt: Messages = ()
    turns = [number(each["turn"], "turn") for each in history]
    for turn in sorted(set(turns)):
        here = [each for each, number_of in zip(history, turns, strict=True) if number_of == turn]
        answers = [each for each in here if each["role"] == "model"]
        prompt = (*prompt, *(Message("user", text(each["content"], "content")) for each in here if each["role"] == "user"))
        if not prompt or prompt[-1].role != "user":
            raise MisfitError(f"turn {turn:g} of 'conversation_history' has no user message")
        if len(answers) > 1:
            known = all(each.get("score") is not None for each in answers)
            found.append(
                _ranked(
                    row,
                    prompt,
                    [each["content"] for each in answers],
                    [number(each["score"], "score") for each in answers] if known else None,
                    annotator=str(row.get("user_id") or ""),
                    label_source="human",
                    id=f"{row.get('conversation_id') or ''}:{turn:g}",
                    tags={"models": models_of(answers, "model_name"), "conversation_type": row.get("conversation_type")},
                )
            )
        kept = next((each for each in answers if each.get("if_chosen")), answers[0] if answers else None)
        if kept is not None:
            prompt = (*prompt, Message("assistant", text(kept["content"], "content")))
    if not found:
        raise MisfitError("no turn has two answers to compare", "remove the row")
    return found


def _oasst(row: Row) -> list[RankedResponses]:
    """Read a message tree of OpenAssistant: siblings with ranks (0 the best) are ranked responses to the thread above them."""
    root = row["prompt"]
    if not isinstance(root, Mapping):
        raise MisfitError(f"'prompt' must be an object with replies, found {kind(root)}")
    name, tags = str(row.get("message_tree_id") or ""), {"lang": root.get("lang")}
    found = [_ranked(row, *thread, id=name, label_source="human", tags=tags) for thread in _threads(root)]
    if not found:
        raise MisfitError("no two sibling answers have ranks", "remove the row")
    return found


def _threads(root: Mapping[str, Any]) -> Iterator[tuple[Messages, list[str], list[float]]]:
    left: list[tuple[Mapping[str, Any], Messages]] = [(root, ())]
    while left:
        node, above = left.pop()
        need(node, "text", "role")
        here = (*above, Message("assistant" if node["role"] == "assistant" else "user", text(node["text"], "text")))
        replies = [each for each in node.get("replies") or [] if isinstance(each, Mapping)]
        ranked = [each for each in replies if each.get("role") == "assistant" and each.get("rank") is not None]
        if len(ranked) > 1:
            yield here, [text(each.get("text"), "text") for each in ranked], [-number(each["rank"], "rank") for each in ranked]
        left += [(each, here) for each in reversed(replies)]


def _oasst_messages(row: Row) -> Record:
    raise MisfitError(
        "it is a single message of an OpenAssistant tree", "use the release in trees (*.trees.jsonl.gz), which has the replies"
    )


def _distilabel(row: Row) -> Record:
    """Read distilabel's `generations` with `ratings` (null: no score), and their models as a tag."""
    generations, ratings = row.get("generations"), row.get("ratings", row.get("rating"))
    if not isinstance(generations, list) or not generations:
        raise MisfitError(f"'generations' must be a non-empty list of texts, found {kind(generations)}")
    if ratings is not None and not isinstance(ratings, list):
        raise MisfitError(f"'ratings' must be a list, found {kind(ratings)}")
    name = next((each for each in ("instruction", "input", "prompt") if row.get(each) is not None), "instruction")
    known = bool(ratings) and all(each is not None for each in ratings or ())
    scores = [number(each, "ratings") for each in ratings or ()] if known else None
    models = row.get("generation_models") or row.get("model_names")
    tags = {"models": ", ".join(map(str, models)) if isinstance(models, list) else models}
    return _ranked(row, prompt_of(row, name), generations, scores, tags=tags, label_source=row.get("model_name") or "")


HELPSTEER2 = Format(
    '{"prompt", "response", "helpfulness": 0..4, "correctness", ...}', has("prompt", "response", "helpfulness"), _helpsteer2, gathers=True
)
KTO = Format(
    '{"prompt", "completion", "label": true or false}, or {"messages", "label"}',
    lambda row: (
        {"prompt", "completion", "label"} <= row.keys() or ("messages" in row and isinstance(row.get("label", row.get("kto_tag")), bool))
    ),
    _kto,
    gathers=True,
)
NECTAR = Format(
    '{"prompt", "answers": [{"answer", "model", "rank"}]}',
    lambda row: {"prompt", "answers"} <= row.keys() and isinstance(row["answers"], list) and isinstance(row["prompt"], str),
    _nectar,
)
PRISM = Format(
    '{"conversation_history": [{"turn", "role", "content", "score", "if_chosen"}], "user_id"}', has("conversation_history"), _prism
)
OASST = Format('{"message_tree_id", "prompt": {"text", "role", "replies": [{"rank", ...}]}}', has("message_tree_id", "prompt"), _oasst)
OASST_MESSAGES = Format(
    '{"message_id", "parent_id", "text", "role", "rank"}: not read',
    has("message_id", "parent_id", "message_tree_id", "text"),
    _oasst_messages,
)
DISTILABEL = Format(
    '{"instruction", "generations": [TEXT], "ratings": [NUMBER], "generation_models"}',
    lambda row: "generations" in row and bool({"ratings", "rating"} & row.keys()),
    _distilabel,
)
