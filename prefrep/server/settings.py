"""How a server answers; `prefrep.programs.serve` documents each setting."""

from __future__ import annotations

from dataclasses import dataclass

from prefrep.errors import UsageError, require_at_least


@dataclass(frozen=True)
class Serving:
    """The options of `prefrep serve` that are about requests, with its defaults.

    Args:
        rendered: Whether queries of /get_reward are read as they are.
        anchors: File of {"prompt", "response"}.
        group_size: Single responses that fill a group.
        group_wait: Milliseconds that a group waits.
        tokens: File with bearer tokens.
        cors: Origins of web pages that may ask.
        body_mb: Largest body, megabytes.
        responses: Most responses to one prompt.
        text_tokens: Longest text, tokens.
        queue: Texts that may wait.
        timeout: Seconds within which a request is answered.

    Raises:
        UsageError: A number is out of range.
    """

    rendered: bool = False
    anchors: str | None = None
    group_size: int = 8
    group_wait: int = 1000
    tokens: str | None = None
    cors: tuple[str, ...] = ()
    body_mb: float = 8.0
    responses: int = 128
    text_tokens: int = 32_768
    queue: int = 20_000
    timeout: float = 120.0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--group-size", self.group_size, 1), ("--group-wait", self.group_wait, 0), ("--responses", self.responses, 2),
            ("--text-tokens", self.text_tokens, 1), ("--queue", self.queue, 1),
        ):  # fmt: skip
            require_at_least(name, value, least)
        for name, number in (("--body-mb", self.body_mb), ("--timeout", self.timeout)):
            if not number > 0:
                raise UsageError(f"{name} must be more than 0, got {number}")
