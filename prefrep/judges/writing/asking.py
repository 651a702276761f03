"""What a judge is asked: prompts are Jinja files, shipped or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from prefrep.errors import ConfigError
from prefrep.judges.writing.forms import Form, Style
from prefrep.judges.writing.reading import Constraint
from prefrep.records import Message, Messages

SHIPPED = Path(__file__).with_name("prompts")


@dataclass(frozen=True)
class Question:
    """One question to a judge, as it is sent.

    Args:
        messages: The conversation.
        labels: What may be said.
        style: See `reading.read`.
        constraint: How the server is told to say nothing else.
        max_tokens: Longest answer.
        temperature: Divides the logits; 0: greedy.
        seed: Seed of the draw; 0 where nothing is drawn.
    """

    messages: Messages
    labels: tuple[str, ...]
    style: Style
    constraint: Constraint
    max_tokens: int
    temperature: float
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Return the question as plain data."""
        return {**vars(self), "messages": [each.as_dict() for each in self.messages], "labels": list(self.labels)}


class Prompt:
    """A Jinja template of questions.

    The file holds the blocks `system` (optional) and `user`, or only text, which is then the user's message. It sees `conversation` and
    `answers` (each with `label` and `text`; turns have `role` and `content`), `boundary` (a word that no answer contains, to fence texts
    with), `verdicts` (pairs of label and meaning), `form`, `style`, `rubric`, `criteria`, `reference`, `criterion` and `json`.

    Args:
        path: A file, or the name of a shipped prompt: pair, best-of, rating.

    Raises:
        ConfigError: There is no such file, or it is no template.
    """

    def __init__(self, path: str) -> None:
        shipped = SHIPPED / f"{path}.j2"
        file = shipped if "/" not in path and shipped.is_file() else Path(path).expanduser()
        self.path = path
        environment = SandboxedEnvironment(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=jinja2.FileSystemLoader([file.parent, SHIPPED])
        )
        try:
            self.source = file.read_text(encoding="utf-8")
            self._template = environment.from_string(self.source)
        except (OSError, UnicodeDecodeError) as error:
            names = ", ".join(sorted(each.stem for each in SHIPPED.glob("[!_]*.j2")))
            raise ConfigError(f"prompt {path}: cannot be read ({error}); name a Jinja file, or one of {names}") from error
        except jinja2.TemplateError as error:
            raise ConfigError(f"prompt {path}: {error}; line {getattr(error, 'lineno', '?')} of the file") from error

    def render(self, context: Mapping[str, Any]) -> Messages:
        """Return the conversation that a context makes. Raises ConfigError: the template names what is not there, or says nothing."""
        try:
            blocks = self._template.blocks
            if not blocks:
                parts = {"user": self._template.render(context)}
            else:
                made = self._template.new_context(dict(context))
                parts = {name: "".join(blocks[name](made)) for name in ("system", "user") if name in blocks}
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise ConfigError(f"prompt {self.path}: {error}; it may use conversation, answers, boundary, verdicts, form, style, rubric, "
                              "criteria, reference, criterion and json") from error  # fmt: skip
        if not parts.get("user", "").strip():
            raise ConfigError(f"prompt {self.path}: it says nothing; it needs text, or a block named user")
        return tuple(Message(role, text.strip()) for role, text in parts.items() if text.strip())


def question(
    prompt: Prompt, conversation: Messages, answers: Sequence[Messages], form: Form, style: Style, more: Mapping[str, Any]
) -> Messages:
    """Return what a judge is asked about answers, in the order in which they are shown.

    Args:
        prompt: The template.
        conversation: What was answered.
        answers: The answers.
        form: What may be said.
        style: Whether reasons come before the verdict.
        more: `rubric`, `criteria`, `reference`, `criterion` and `json`.
    """
    shown = [
        {"label": letter, "turns": [turn.as_dict() for turn in answer], "text": "\n\n".join(turn.content for turn in answer)}
        for letter, answer in zip(ascii_uppercase, answers, strict=False)
    ]
    # An answer that ends its own fence could add instructions behind it, so the fence is a word that nobody could know.
    boundary = hashlib.sha256(repr((conversation, tuple(answers))).encode()).hexdigest()[:8]
    context = {
        "conversation": [turn.as_dict() for turn in conversation],
        "answers": shown,
        "boundary": boundary,
        "verdicts": list(zip(form.labels, form.meanings, strict=True)),
        "form": form.name,
        "style": style,
        **more,
    }
    return prompt.render(context)
