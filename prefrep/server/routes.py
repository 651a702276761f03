"""The server's own routes under /v1: comparisons, tables, rankings, rewards, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from prefrep.data.turns import template_kwargs
from prefrep.functional.groups import probabilities, win_probabilities
from prefrep.records import Messages, RankedResponses
from prefrep.scoring.scorer import Scorer
from prefrep.server.asking import Found, ask, checked, numbers, rows, table, until
from prefrep.server.bodies import Answered, Prompt, Strict, read, schema
from prefrep.server.context import Context
from prefrep.server.refusals import Refusal, answer
from prefrep.server.rewards import Asked
from prefrep.server.written import Heard, Interviewer

PRIME = {"prompt": "Name a prime", "responses": ["7", "9"]}


class Rendering(Strict):
    """What the chat template gets beside the conversation."""

    tools: list[dict[str, Any]] | None = Field(None, description="Functions that the conversation may call.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Other variables of the chat template.")


class Question(Rendering):
    """A prompt and K responses."""

    prompt: Prompt = Field(description="Text, or a conversation. [] for texts without a prompt.")
    responses: list[Answered] = Field(min_length=1, description="K responses, each text or messages.")
    annotator: str = Field("", description="Who is asked, if the model knows people; empty, or not known to it: the population.")


class Questions(Rendering):
    """One prompt with its responses, or several in `records`."""

    model: str | None = Field(None, description="Name of a model of /v1/models; default: the first one.")
    prompt: Prompt | None = Field(None, description="Text, or a conversation. [] for texts without a prompt.")
    responses: list[Answered] | None = Field(None, min_length=1, description="K responses, each text or messages.")
    annotator: str = Field("", description="Who is asked, if the model knows people; empty, or not known to it: the population.")
    records: list[Question] | None = Field(None, description="Several prompts, in place of `prompt` and `responses`.")
    blocks: bool = Field(False, description="/v1/table: also the log-odds by 2 x 2 block of a general preference model, [D/2, K, K].")


class Scored(Strict):
    """Responses to one prompt that want one number each."""

    model: str | None = Field(None, description="Name of a model of /v1/models; default: the first one.")
    prompt: Prompt = Field(description="Text, or a conversation.")
    responses: list[Answered] = Field(min_length=1, description="Responses, each text or messages.")
    rule: Literal["reward", "group", "anchor"] | None = Field(None, description="Where the numbers come from; default: by the model.")
    anchors: list[Answered] | None = Field(None, min_length=1, description="rule anchor: one answer, or one for each response.")


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["prefrep"])

    def posed(body: Questions) -> tuple[list[RankedResponses], bool]:
        """Return the records of a body, and whether it holds one alone."""
        alone = body.records is None
        if alone == (body.prompt is None) or alone == (body.responses is None):
            raise Refusal(422, "send either prompt and responses, or records")
        if body.records is None:
            assert body.responses is not None
            return [record(body.prompt or (), body.responses, "", body, body.annotator)], True
        if body.tools or body.chat_template_kwargs or body.annotator:
            raise Refusal(422, "tools, chat_template_kwargs and annotator belong into each of the records")
        return [record(each.prompt, each.responses, f"records[{i}]", each, each.annotator) for i, each in enumerate(body.records)], False

    def record(
        prompt: Messages, responses: Sequence[Messages], where: str, rendering: Rendering | None = None, annotator: str = ""
    ) -> RankedResponses:
        if len(responses) > context.settings.responses:
            raise Refusal(
                422, f"{where + '.' if where else ''}responses: {len(responses)}, and at most {context.settings.responses} are compared at "
                "a time; send fewer, or start the server with a larger --responses",
            )  # fmt: skip
        try:
            kwargs = template_kwargs(rendering.model_dump(include=set(Rendering.model_fields))) if rendering else {}
        except ValueError as error:
            raise Refusal(422, f"{where + ': ' if where else ''}{error}") from None
        return RankedResponses(prompt, tuple(responses), source=where, template_kwargs=kwargs, annotator=annotator)

    async def answered(
        request: Request,
        finish: Callable[[Found, Questions], dict[str, Any]],
        count: int | None = None,
        offers: Callable[[Found], object] = lambda reading: None,
    ) -> Response:
        """Answer a request. `offers` raises where a model cannot give what is asked for: of a judge before a question is paid for."""
        body = await read(request, Questions, context.settings.body_mb)
        records, alone = posed(body)
        if wrong := next((each for each in records if count is not None and len(each.responses) != count), None):
            raise Refusal(422, f"{wrong.source + '.' if wrong.source else ''}responses: two are compared, got {len(wrong.responses)}")
        model = context.models(body.model)
        if isinstance(model.engine, Interviewer):
            offers(Heard(model.engine.scorer, 0, []))
        known = model.engine.scorer.annotators
        if known is None and (asked := next((each for each in records if each.annotator), None)):
            where = f"{asked.source}.annotator" if asked.source else "annotator"
            raise Refusal(422, f"{where}: {model.name} answers everybody alike, so nobody can be asked; leave annotator out")
        scorer = model.engine.scorer
        if isinstance(scorer, Scorer) and (stranger := next((each for each in records if scorer.asking.refuses(each.annotator)), None)):
            where = f"{stranger.source}.annotator" if stranger.source else "annotator"
            raise Refusal(422, f"{where}: {model.name} does not know them; name somebody whom it knows, or leave annotator out")
        found = await until(request, ask(model, records, lambda reading: finish(reading, body)), context.settings.timeout)
        said = [each.value | ({"encoded": each.encoded} if _unusual(each.encoded) else {}) for each in found]
        if known is not None:
            for row, each in zip(said, records, strict=True):
                row["answered_by"] = known.answering(each.annotator)
        return answer({"model": model.name} | (said[0] if alone else {"records": said}))

    @routes.post("/compare", summary="Log-odds that the first of two responses is better", openapi_extra=schema(Questions, PRIME))
    async def compare(request: Request) -> Response:
        def finish(reading: Found, body: Questions) -> dict[str, Any]:
            ((_, odds), _), silent = rows(reading)
            return {"log_odds": odds, "probability": None if odds is None else float(probabilities(np.array(odds)))} | silent

        return await answered(request, finish, count=2)

    @routes.post("/table", summary="Log-odds of all pairs among K responses", openapi_extra=schema(Questions, PRIME))
    async def tables(request: Request) -> Response:
        def finish(reading: Found, body: Questions) -> dict[str, Any]:
            found, silent = rows(reading)
            blocks = reading.blocks() if body.blocks else None
            return {"table": found} | silent | ({} if blocks is None else {"blocks": checked(blocks).tolist()})

        return await answered(request, finish)

    @routes.post("/rank", summary="Responses from best to worst", openapi_extra=schema(Questions, PRIME))
    async def rank(request: Request) -> Response:
        def finish(reading: Found, body: Questions) -> dict[str, Any]:
            odds = table(reading)
            means = odds.mean(axis=1)
            order = [int(i) for i in np.argsort(-means, kind="stable")]
            return {"order": order, "scores": means.tolist(), "win_probabilities": win_probabilities(odds).tolist()}

        return await answered(request, finish)

    @routes.post("/rewards", summary="Rewards of a Bradley-Terry model", openapi_extra=schema(Questions, PRIME))
    async def rewards(request: Request) -> Response:
        def finish(reading: Found, body: Questions) -> dict[str, Any]:
            found, silent = numbers(reading)
            return {"rewards": found} | silent

        return await answered(request, finish, offers=numbers)

    @routes.post("/embed", summary="Vectors u and a matrix A: log-odds are u A u^T", openapi_extra=schema(Questions, PRIME))
    async def embed(request: Request) -> Response:
        def finish(reading: Found, body: Questions) -> dict[str, Any]:
            vectors, matrix = reading.bilinear()
            return {"embeddings": checked(vectors).tolist(), "operator": checked(matrix).tolist()}

        return await answered(request, finish, offers=lambda reading: reading.bilinear())

    @routes.post("/score", summary="One number per response, by one rule", openapi_extra=schema(Scored, PRIME | {"rule": "group"}))
    async def score(request: Request) -> Response:
        body = await read(request, Scored, context.settings.body_mb)
        asked = record(body.prompt, body.responses, "")
        anchors = (body.anchors or [None]) * (1 if body.anchors and len(body.anchors) > 1 else len(asked.responses))
        if len(anchors) != len(asked.responses):
            raise Refusal(422, f"anchors: one, or one for each of the {len(asked.responses)} responses, got {len(anchors)}")
        each = [
            Asked(body.prompt, each, anchor, f"responses[{i}]")
            for i, (each, anchor) in enumerate(zip(asked.responses, anchors, strict=True))
        ]
        model = context.models(body.model)
        found = await until(request, context.reward(model, each, body.rule), context.settings.timeout)
        return answer({"model": model.name, "rule": found.rule, "scores": found.values, "group_sizes": found.sizes})

    return routes


def _unusual(encoded: dict[str, int]) -> bool:
    """Whether encoding did more than count records: something was truncated."""
    return any(count for name, count in encoded.items() if name != "records")
