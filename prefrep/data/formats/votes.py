"""Formats of votes: people or models compared two answers and named a side, a tie or a degree.

Tested on real rows: AlpacaEval annotations. The others follow the columns of the published data sets.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefrep.data.fields import branch, number, prompt_of, text, text_response
from prefrep.data.formats.base import Format, has
from prefrep.data.formats.verdicts import better, choice, verdict
from prefrep.data.turns import MisfitError, Row, conversation, kind, need
from prefrep.records import Comparison, Messages, Record

WINNERS = {"model_a": 0, "model_b": 1, "tie": None, "tie (bothbad)": None, "both_bad": None, "bothbad": None}
HUMAN_JUDGES = ("arena_user", "author", "expert")  # in Chatbot Arena and MT-bench; other judges are models


def _arena(row: Row) -> Record:
    """Read a vote of Chatbot Arena or MT-bench on two conversations. "Both bad" is a tie, which the tag `winner` records."""
    need(row, "conversation_a", "conversation_b", "winner")
    prompt, *sides = branch(*(conversation(row[f"conversation_{side}"], f"conversation_{side}") for side in "ab"))
    judge = row.get("judge")
    judge = "_".join(map(str, judge)) if isinstance(judge, list) else str(judge or "")
    source = "human" if judge.startswith(HUMAN_JUDGES) else judge
    return verdict(
        row, prompt, sides, choice(row["winner"], "winner", WINNERS), models=[row.get("model_a"), row.get("model_b")],
        tags={"winner": row["winner"], "turn": row.get("turn"), "language": row.get("language")},
        annotator=judge, label_source=source, id=str(row.get("question_id") or ""),
    )  # fmt: skip


def _helpsteer3(row: Row) -> Record:
    """Read the overall preference of HelpSteer3: -3 (response 1 much better) to 3 (response 2), 0 a tie.

    Its annotators are anonymous; the tag `individual` lists their preferences. Format `helpsteer3-individual` reads those.
    """
    overall = number(row.get("overall_preference"), "overall_preference")
    given = [each.get("score") for each in _individual(row)]
    return _helpsteer3_verdict(row, overall, {"individual": " ".join(map(str, given))})


def _helpsteer3_individual(row: Row) -> list[Comparison]:
    """Read each annotator's preference of HelpSteer3 as a comparison, without the overall one; the tag `rater` numbers them."""
    found = _individual(row)
    if not found:
        raise MisfitError("'individual_preference' is empty", "or set format: helpsteer3")
    return [
        _helpsteer3_verdict(row, number(each.get("score"), "individual_preference.score"), {"rater": place})
        for place, each in enumerate(found, start=1)
    ]


def _individual(row: Row) -> list[Mapping[str, object]]:
    found = row.get("individual_preference") or []
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise MisfitError("'individual_preference' must be a list of objects")
    return found


def _helpsteer3_verdict(row: Row, preference: float, tags: Mapping[str, object]) -> Comparison:
    need(row, "context", "response1", "response2")
    if not -3 <= preference <= 3:
        raise MisfitError(f"a preference must lie between -3 and 3, found {preference:g}")
    more = {"domain": row.get("domain"), "language": row.get("language"), **tags}
    sides = [text_response(row[name], name) for name in ("response1", "response2")]
    side = better(-preference)
    return verdict(row, prompt_of(row, "context"), sides, side, strength=abs(preference), label_source="human", tags=more)


def _alpaca(row: Row) -> list[Comparison]:
    """Read annotations of AlpacaFarm and AlpacaEval: `preference` is 1 for output_1, 2 for output_2, or between; 1.5 and 0 are ties.

    A preference can be an object with several annotators, each of which becomes a comparison. Values between 1 and 2 are probabilities.
    """
    need(row, "output_1", "output_2", "preference")
    prompt = instruction(row)
    sides = [text_response(row[name], name) for name in ("output_1", "output_2")]
    given = row["preference"]
    annotator = row.get("annotator")
    if not isinstance(given, Mapping) and isinstance(annotator, list | dict):
        raise MisfitError(f"'annotator' must be text, found {kind(annotator)}")
    found = []
    for name, value in (given if isinstance(given, Mapping) else {str(annotator or ""): given}).items():
        if value is None and isinstance(given, Mapping):
            continue  # this annotator did not see the pair
        second = (number(value, "preference") or 1.5) - 1
        if not 0 <= second <= 1:
            raise MisfitError(f"'preference' must lie between 1 (output_1) and 2 (output_2), found {value}")
        found.append(
            verdict(
                row,
                prompt,
                sides,
                better(0.5 - second),
                probability=max(second, 1 - second),
                models=[row.get("generator_1"), row.get("generator_2")],
                tags={"dataset": row.get("dataset")},
                annotator=name,
                label_source=name,
            )
        )
    if not found:
        raise MisfitError("'preference' holds no verdict")
    return found


def instruction(row: Row, name: str = "instruction") -> Messages:
    """Return Alpaca's prompt: the instruction, and `input`, its second half, if there is one."""
    (prompt,) = prompt_of({name: text(row.get(name) or "", name)}, name)
    extra = row.get("input")
    return (type(prompt)(prompt.role, f"{prompt.content}\n{text(extra, 'input')}"),) if extra else (prompt,)


def _llmbar(row: Row) -> Record:
    """Read LLMBar's own files, in which `label` is the number of the better output, 1 or 2."""
    need(row, "input", "output_1", "output_2", "label")
    sides = [text_response(row[name], name) for name in ("output_1", "output_2")]
    return verdict(row, prompt_of(row, "input"), sides, choice(row["label"], "label", {1: 0, 2: 1, "1": 0, "2": 1}), label_source="human")


DEGREES = {
    "a-is-clearly-better": 2, "a-is-slightly-better": 1, "tie": 0, "b-is-slightly-better": -1, "b-is-clearly-better": -2
}  # fmt: skip


def _multipref(row: Row) -> list[Comparison]:
    """Read MultiPref: the answer of each worker to each question becomes a comparison, with strength 2 for "clearly", 1 for "slightly".

    Criteria are overall, helpful, truthful and harmless, groups `normal` and `expert`.
    """
    need(row, "text", "completion_a", "completion_b")
    prompt = prompt_of(row, "text")
    sides = [text_response(row[name], name) for name in ("completion_a", "completion_b")]
    found = []
    for group in ("normal", "expert"):
        workers = row.get(f"{group}_worker_annotations") or []
        if not isinstance(workers, list) or not all(isinstance(worker, Mapping) for worker in workers):
            raise MisfitError(f"'{group}_worker_annotations' must be a list of objects")
        for worker in workers:
            for criterion in ("overall", "helpful", "truthful", "harmless"):
                said = worker.get(f"{criterion}_pref")
                if said is None:
                    continue
                degree = DEGREES.get(str(said).strip().lower())
                if degree is None:
                    raise MisfitError(f"'{criterion}_pref' must be one of {', '.join(DEGREES)}, found {said!r:.60}")
                found.append(
                    verdict(
                        row,
                        prompt,
                        sides,
                        better(degree),
                        models=[row.get("model_a"), row.get("model_b")],
                        strength=float(abs(degree)),
                        criterion=criterion,
                        group=group,
                        annotator=str(worker.get("evaluator") or ""),
                        label_source="human",
                        id=str(row.get("comparison_id") or ""),
                        tags={"confidence": worker.get(f"{criterion}_confidence")},
                    )
                )
    if not found:
        raise MisfitError("no worker answered a question", "remove the row")
    return found


ARENA = Format(
    '{"conversation_a": MESSAGES, "conversation_b", "winner": "model_a", "model_b", "tie" or "tie (bothbad)", "judge"}',
    has("conversation_a", "conversation_b", "winner"),
    _arena,
)
HELPSTEER3 = Format(
    '{"context": MESSAGES, "response1", "response2", "overall_preference": -3..3, "individual_preference"}',
    has("context", "response1", "response2", "overall_preference"),
    _helpsteer3,
)
HELPSTEER3_INDIVIDUAL = Format("rows of helpsteer3, one comparison per annotator", lambda row: False, _helpsteer3_individual)
ALPACA = Format(
    '{"instruction", "input" or none, "output_1", "output_2", "preference": 1..2, "annotator"}',
    has("instruction", "output_1", "output_2", "preference"),
    _alpaca,
)
LLMBAR = Format('{"input", "output_1", "output_2", "label": 1 or 2}', has("input", "output_1", "output_2", "label"), _llmbar)
MULTIPREF = Format(
    '{"text", "completion_a", "completion_b", "normal_worker_annotations": [{"evaluator", "overall_pref", ...}], "expert_..."}',
    lambda row: (
        {"text", "completion_a", "completion_b"} <= row.keys()
        and bool({"normal_worker_annotations", "expert_worker_annotations"} & row.keys())
    ),
    _multipref,
)
