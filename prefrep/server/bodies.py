"""Bodies of requests: read under limits, parsed strictly, and checked field by field."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, WithJsonSchema
from starlette.requests import ClientDisconnect

from prefrep.data.turns import conversation, kind
from prefrep.records import Message, Messages
from prefrep.server.refusals import Refusal

Body = TypeVar("Body", bound=BaseModel)
ARRIVAL = 30.0  # seconds within which a body arrives
DRAINED = 50  # times the largest body


def _said(role: str, value: object) -> Messages:
    """Return text or a conversation as messages; strings become one message of a role."""
    if isinstance(value, str):
        return (Message(role, value),)
    if not isinstance(value, list):
        raise ValueError(f"must be text or a list of messages with role and content, found {kind(value)}")
    return conversation(value, "messages")


_SAID = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array", "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"], "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
            },
        },
    ]
}  # fmt: skip
Prompt = Annotated[Any, PlainValidator(lambda value: _said("user", value) if value != [] else ()), WithJsonSchema(_SAID)]
Answered = Annotated[Any, PlainValidator(lambda value: _said("assistant", value)), WithJsonSchema(_SAID)]


class Strict(BaseModel):
    """A body whose fields are known and not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Lenient(BaseModel):
    """A body of somebody else's protocol, which may grow fields."""

    model_config = ConfigDict(extra="ignore", strict=True)


async def read(request: Request, form: type[Body], limit_mb: float) -> Body:
    """Return the body of a request.

    Args:
        request: The request.
        form: Its form.
        limit_mb: Largest body in megabytes.

    Raises:
        Refusal: 400 no JSON, 408 too slow, 413 too large, 415 another type, 422 a field is wrong.
    """
    if "json" not in request.headers.get("content-type", ""):
        raise Refusal(415, "the body must be JSON, with Content-Type: application/json")
    try:
        content = await asyncio.wait_for(_received(request, int(limit_mb * 1e6)), ARRIVAL)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {ARRIVAL:.0f} seconds") from None
    except ClientDisconnect:
        raise Refusal(400, "the body ended early") from None
    try:
        return form.model_validate(parse(content))
    except ValidationError as error:
        raise Refusal(422, sentence(error)) from None


async def _received(request: Request, limit: int) -> bytes:
    content, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            content += part
        elif size > DRAINED * limit:
            break
    # A client reads no answer while it still sends: what is too large is received, up to a point, and not kept.
    if size > limit:
        raise Refusal(413, f"the body must not be larger than {limit / 1e6:g} MB; send less, or start the server with a larger --body-mb",
                      connection="close")  # fmt: skip
    return bytes(content)


def parse(content: bytes) -> Any:
    """Return what a JSON text holds.

    Raises:
        Refusal: It is no JSON of finite numbers in UTF-8, or nested too deeply.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        found = json.loads(content.decode(), parse_constant=refuse)
        if b"\\u" in content:  # an escape may be half of a surrogate pair, which is no text
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refusal(400, "the body holds half of a surrogate pair, which is no text") from None
    except UnicodeDecodeError:
        raise Refusal(400, "the body is not UTF-8") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON ({str(error).splitlines()[0]:.120})") from None
    return found


def sentence(error: ValidationError) -> str:
    """Return the first error of a body as a sentence that names the field."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = ""
    for part in first["loc"]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    reasons = {
        "missing": "is missing",
        "extra_forbidden": "is not a field here",
        "model_type": "must be an object",
        "too_short": "must not be empty",
        "list_type": "must be a list",
    }
    reason = reasons.get(first["type"]) or first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{name:.200}: {reason:.300}; /docs has the form of the body" if name else f"the body: {reason:.300}; /docs has its form"


def schema(form: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body."""
    whole = form.model_json_schema()
    parts = whole.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, dict):
            reference = node.get("$ref")
            return inlined(parts[reference.rsplit("/", 1)[1]]) if reference else {key: inlined(value) for key, value in node.items()}
        return [inlined(each) for each in node] if isinstance(node, list) else node

    content = {"application/json": {"schema": inlined(whole), "example": example}}
    return {"requestBody": {"required": True, "content": content}}
