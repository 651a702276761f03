"""Formats of comparisons labelled by scores, votes or several questions: Stanford SHP, WebGPT, SafeRLHF, Summarize from Feedback.

They follow the documented columns of the published data sets; none was tested on real rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefrep.data.fields import number, prompt_of, text, text_response
from prefrep.data.formats.base import Format, has
from prefrep.data.formats.verdicts import better, choice, flag, verdict
from prefrep.data.turns import MisfitError, Row, need
from prefrep.records import Comparison, Message, Record

_FIRST_OR_SECOND = {0: 0, 1: 1, "0": 0, "1": 1}


def _shp(row: Row) -> Record:
    """Read Stanford SHP: `labels` is 1 if A has the higher score, else 0. The strength is `score_ratio`, the group the subreddit."""
    need(row, "history", "human_ref_A", "human_ref_B", "labels")
    sides = [text_response(row[name], name) for name in ("human_ref_A", "human_ref_B")]
    ratio = row.get("score_ratio")
    return verdict(
        row, prompt_of(row, "history"), sides, 1 - int(flag(row["labels"], "labels")), id=str(row.get("post_id") or ""),
        strength=None if ratio is None else number(ratio, "score_ratio"), label_source="human",
        group=str(row.get("domain") or "").removesuffix("_train").removesuffix("_validation").removesuffix("_test"),
        tags={"score_A": row.get("score_A"), "score_B": row.get("score_B"), "upvote_ratio": row.get("upvote_ratio")},
    )  # fmt: skip


def _webgpt(row: Row) -> Record:
    """Read WebGPT comparisons: the scores of the two answers add up to 0; their size is the strength, 0 a tie."""
    need(row, "question", "answer_0", "answer_1", "score_0")
    question = row["question"]
    about = question if isinstance(question, Mapping) else {"full_text": question}
    score = number(row["score_0"], "score_0")
    sides = [text_response(row[name], name) for name in ("answer_0", "answer_1")]
    return verdict(
        row, prompt_of(about, "full_text"), sides, better(score), strength=abs(score), label_source="human", id=str(about.get("id") or ""),
        tags={"dataset": about.get("dataset")},
    )  # fmt: skip


def _safe_rlhf(row: Row) -> list[Comparison]:
    """Read PKU-SafeRLHF: one comparison for each question, criteria `better` and `safer`; tags tell which responses are safe."""
    need(row, "prompt", "response_0", "response_1")
    prompt = prompt_of(row)
    sides = [text_response(row[name], name) for name in ("response_0", "response_1")]
    found = []
    for criterion in ("better", "safer"):
        name = f"{criterion}_response_id"
        if row.get(name) is None:
            continue
        side = choice(row[name], name, _FIRST_OR_SECOND)
        assert side is not None
        safe = {what: row.get(f"is_response_{i}_safe") for what, i in (("chosen_safe", side), ("rejected_safe", 1 - side))}
        models = [row.get(f"response_{i}_source") for i in range(2)]
        found.append(verdict(row, prompt, sides, side, models=models, criterion=criterion, tags=safe))
    if not found:
        raise MisfitError("neither 'better_response_id' nor 'safer_response_id' says which response is preferred")
    return found


def _summarize(row: Row) -> Record:
    """Read comparisons of Summarize from Feedback, whose `extra.confidence` is kept as a tag.

    The prompt is the post in the form that the summaries were written for: SUBREDDIT, TITLE, POST, TL;DR; or a news article.
    """
    need(row, "info", "summaries", "choice")
    info, summaries = row["info"], row["summaries"]
    if not isinstance(info, Mapping):
        raise MisfitError("'info' must be an object")
    if not isinstance(summaries, list) or len(summaries) != 2 or not all(isinstance(each, Mapping) for each in summaries):
        raise MisfitError("'summaries' must be a list of two objects", "the ratings on axes are not comparisons")
    parts = [("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"), ("POST: ", "post"), ("", "article")]
    lines = [f"{label}{text(info[name], name)}" for label, name in parts if info.get(name)]
    if not lines:
        raise MisfitError("'info' holds neither a post nor an article")
    extra = row.get("extra")
    confidence = extra.get("confidence") if isinstance(extra, Mapping) else None
    sides = [text_response(text(each.get("text"), "summaries.text").strip(), "summaries.text") for each in summaries]
    return verdict(
        row, (Message("user", "\n".join([*lines, "TL;DR:"])),), sides, choice(row["choice"], "choice", _FIRST_OR_SECOND),
        models=[each.get("policy") for each in summaries], annotator=str(row.get("worker") or ""), label_source="human",
        id=str(info.get("id") or ""), tags={"confidence": confidence, "batch": row.get("batch"), "site": info.get("site")},
    )  # fmt: skip


SHP = Format('{"history", "human_ref_A", "human_ref_B", "labels": 0 or 1}', has("history", "human_ref_A", "human_ref_B", "labels"), _shp)
WEBGPT = Format(
    '{"question": {"full_text"}, "answer_0", "answer_1", "score_0", "score_1"}', has("question", "answer_0", "answer_1", "score_0"), _webgpt
)
SAFE_RLHF = Format(
    '{"prompt", "response_0", "response_1", "better_response_id", "safer_response_id"}',
    lambda row: {"response_0", "response_1"} <= row.keys() and bool({"better_response_id", "safer_response_id"} & row.keys()),
    _safe_rlhf,
)
SUMMARIZE = Format(
    '{"info": {"post", ...}, "summaries": [{"text"}, {"text"}], "choice": 0 or 1}', has("info", "summaries", "choice"), _summarize
)
