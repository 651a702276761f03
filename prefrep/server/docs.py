"""Documentation of the routes as one page of this host: FastAPI's own loads its scripts from another one."""

from __future__ import annotations

import json
from html import escape
from typing import Any


def page(openapi: dict[str, Any]) -> str:
    """Return a page of an OpenAPI description."""
    parts = []
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            body = route.get("requestBody", {}).get("content", {}).get("application/json")
            parts.append(f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(route.get('summary', ''))}</p>")
            if body:
                call = f"curl -H 'Content-Type: application/json' HOST{path} -d '{json.dumps(body['example'])}'"
                parts.append(f"<p>{escape(body['schema'].get('description', ''))}</p>{_fields(body['schema'])}<pre>{escape(call)}</pre>")
            parts.append("</section>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(openapi['info']['title'])}: routes</title>"
        f'<link rel="stylesheet" href="/page/page.css"><main class="docs"><h1>Routes of this server</h1>'
        f'<p>{escape(openapi["info"]["description"])} The same for programs: <a href="/openapi.json">openapi.json</a>. '
        f'<a href="/">The page for people</a>.</p>{"".join(parts)}</main></html>'
    )


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><th><code>{escape(name)}</code></th><td>{escape(_kind(field))}{', required' if name in required else ''}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema["properties"].items()
    )
    return f"<table><thead><tr><th>field</th><th>type</th><th>meaning</th></tr></thead><tbody>{rows}</tbody></table>"


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(each) for each in field["anyOf"] if each.get("type") != "null"))
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        inner = _kind(field.get("items", {}))
        return f"list of ({inner})" if " " in inner else f"list of {inner}"
    return {"string": "text", "object": "object", "integer": "whole number", "boolean": "true or false"}.get(field.get("type", ""), "any")
