"""Routes of other projects' protocols: OpenRLHF's /get_reward, and rerank as Jina, Cohere, vLLM and TEI have it."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from prefrep.data.rendered import split
from prefrep.functional.groups import probabilities
from prefrep.records import Message
from prefrep.server.asking import until
from prefrep.server.bodies import Lenient, Prompt, read, schema
from prefrep.server.context import Context
from prefrep.server.refusals import Refusal, answer
from prefrep.server.rewards import Asked


class GetReward(Lenient):
    """OpenRLHF's request, of all versions."""

    query: list[str] = Field(description="Prompts with responses, in the policy's chat template, special tokens kept.")
    prompts: list[str] | None = Field(None, description="The rendered prompts, with which the queries begin.")
    labels: list[Any] | None = Field(None, description="Not read.")
    anchors: list[str] | None = Field(None, description="An answer for each query to compare its response with (not in OpenRLHF).")
    model: str | None = Field(None, description="Name of a model of /v1/models (not in OpenRLHF).")


class Document(Lenient):
    """A document of a rerank request."""

    text: str


class Rerank(Lenient):
    """A rerank request: `documents` as Jina, Cohere and vLLM have it, or `texts` as TEI has it."""

    model: str | None = None
    query: Prompt
    documents: list[str | Document] | None = Field(None, min_length=1)
    texts: list[str] | None = Field(None, min_length=1)
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = False
    return_text: bool | None = False


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["protocols of others"])
    settings = context.settings

    @routes.post(
        "/get_reward", summary="OpenRLHF: rewards of rendered queries",
        openapi_extra=schema(GetReward, {
            "query": ["<|im_start|>user\nName a prime<|im_end|>\n<|im_start|>assistant\n7<|im_end|>"],
            "prompts": ["<|im_start|>user\nName a prime<|im_end|>\n<|im_start|>assistant\n"],
            "labels": [None],
        }),
    )  # fmt: skip
    async def get_reward(request: Request) -> Response:
        body = await read(request, GetReward, settings.body_mb)
        limit(len(body.query), "query")
        if body.prompts and len(body.prompts) != len(body.query):
            raise Refusal(422, f"prompts: one for each of the {len(body.query)} queries, got {len(body.prompts)}")
        if body.anchors and len(body.anchors) != len(body.query):
            raise Refusal(422, f"anchors: one for each of the {len(body.query)} queries, got {len(body.anchors)}")
        asked = [turns(body, i) for i in range(len(body.query))]
        model = context.models(body.model)
        found = await until(request, context.reward(model, asked, None, settings.rendered), settings.timeout)
        scores = probabilities(np.array(found.values)).tolist()
        return answer({"rewards": found.values, "scores": scores, "extra_logs": {"group_size": [float(size) for size in found.sizes]}})

    def turns(body: GetReward, i: int) -> Asked:
        query, prompt = body.query[i], body.prompts[i] if body.prompts else None
        anchor = (Message("assistant", body.anchors[i]),) if body.anchors else None
        if settings.rendered:
            before = prompt or ""
            if not query.startswith(before):
                raise Refusal(422, f"query[{i}]: it does not begin with prompts[{i}]")
            return Asked((Message("user", before),), (Message("assistant", query[len(before) :]),), anchor, f"query[{i}]", f"query[{i}]")
        messages, response = split(query, prompt, f"query[{i}]")
        return Asked(messages, (Message("assistant", response),), anchor, f"query[{i}]", f"query[{i}]")

    def limit(count: int, field: str) -> None:
        if count > settings.responses:
            raise Refusal(422, f"{field}: {count}, and at most {settings.responses} are scored at a time; send fewer, or start the server "
                          "with a larger --responses")  # fmt: skip

    @routes.post("/v1/rerank", summary="Documents by how well they answer a query", openapi_extra=schema(Rerank, {
        "query": "Name a prime", "documents": ["7", "9"], "top_n": 1,
    }))  # fmt: skip
    @routes.post("/v2/rerank", include_in_schema=False)
    @routes.post("/rerank", include_in_schema=False)
    async def rerank(request: Request) -> Response:
        body = await read(request, Rerank, settings.body_mb)
        if (body.documents is None) == (body.texts is None):
            raise Refusal(422, "documents: they are missing (TEI's clients send texts in their place)")
        texts = body.texts or [each if isinstance(each, str) else each.text for each in body.documents or []]
        field = "documents" if body.texts is None else "texts"
        limit(len(texts), field)
        model = context.models(body.model)
        asked = [Asked(body.query, (Message("assistant", each),), None, f"{field}[{i}]", "query") for i, each in enumerate(texts)]
        found = await until(request, context.reward(model, asked, wait=False), settings.timeout)
        scores = probabilities(np.array(found.values)).tolist()
        order = sorted(range(len(texts)), key=lambda i: -found.values[i])[: body.top_n]
        if body.texts is not None:
            return answer([{"index": i, "score": scores[i]} | ({"text": texts[i]} if body.return_text else {}) for i in order])
        results = [
            {"index": i, "relevance_score": scores[i]} | ({"document": {"text": texts[i]}} if body.return_documents else {}) for i in order
        ]
        return answer({"id": str(uuid.uuid4()), "model": model.name, "results": results})

    return routes
