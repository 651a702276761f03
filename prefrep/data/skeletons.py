"""Chat templates, run once per shape of conversation: a skeleton of fixed texts and slots for the contents.

A template is a program, and running it takes half of the time of encoding. Most templates only copy contents, so for conversations with the
same roles they write the same text around them. `Skeletons` runs the template on contents that record what is done to them. If a content is
only written, trimmed, concatenated or tested for a constant text (`'</think>' in content`), the output is a skeleton for all conversations
of these roles whose contents have none of these texts. Otherwise, and wherever a comparison with the template itself fails, there is no
skeleton, and the template runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes
from transformers import PreTrainedTokenizerBase

from prefrep.records import Messages, turns

KEPT = 1000  # shapes; roles are the data's, or those of a server's clients
CHECKED = 3  # conversations of each shape that are rendered both ways
# Filters that copy contents or do not receive them; others, and these constructs, return plain text whose later use cannot be tracked.
_FILTERS = {"trim", "default", "string", "length", "count", "list", "selectattr", "rejectattr", "first", "last", "items", "tojson", "safe"}
_UNTRACKED = (nodes.Concat, nodes.Macro, nodes.CallBlock, nodes.AssignBlock, nodes.FilterBlock)
_SLOT = re.compile("\ue000(\\d+)([rbls])\ue001")
_TRIMS: dict[str, Callable[[str], str]] = {"r": str, "b": str.strip, "l": str.lstrip, "s": str.rstrip}
_NASTY = " \t\"'\\<&>\u00e9{{ %s }}\n "

Template = Callable[[list[dict[str, Any]]], str]


@dataclass
class _Record:
    """The operations of a template on contents."""

    known: bool = True
    needles: set[str] = field(default_factory=set)


class _Content(str):
    """A content that records operations on it."""

    record: _Record
    slot: int

    @classmethod
    def of(cls, text: str, record: _Record) -> _Content:
        made = cls(text)
        object.__setattr__(made, "record", record)
        return made

    def _unknown(self, *_: object) -> Any:
        object.__getattribute__(self, "record").known = False
        return NotImplemented

    def __getattribute__(self, name: str) -> Any:
        if name in ("strip", "lstrip", "rstrip"):
            return lambda *chars: self._trimmed(name, chars)
        if name in ("startswith", "endswith"):
            return lambda needle, *more: self._found(needle, *more)
        if not name.startswith("_"):
            object.__getattribute__(self, "record").known = False
        return object.__getattribute__(self, name)

    def _trimmed(self, name: str, chars: tuple[object, ...]) -> _Content:
        record = object.__getattribute__(self, "record")
        slot = _SLOT.fullmatch(self)
        if any(char is not None for char in chars) or slot is None:
            record.known = False
            return self
        kind = {"strip": "b", "lstrip": "l", "rstrip": "s"}[name]
        kind = kind if slot[2] in ("r", kind) else "b"
        return _Content.of(f"\ue000{slot[1]}{kind}\ue001", record)

    def _found(self, needle: object, *more: object) -> bool:
        record: _Record = object.__getattribute__(self, "record")
        if more or type(needle) is not str or not needle or not needle.strip():
            record.known = False
        else:
            record.needles.add(needle)
        return False

    def __contains__(self, needle: object) -> bool:
        return self._found(needle)

    def __add__(self, other: str) -> _Content:
        return _Content.of(str.__add__(self, other), object.__getattribute__(self, "record"))

    def __radd__(self, other: str) -> _Content:
        return _Content.of(str.__add__(other, self), object.__getattribute__(self, "record"))

    def __bool__(self) -> bool:
        return True  # skeletons are for contents that are not blank

    def __str__(self) -> str:
        return str.__str__(self)

    __hash__ = str.__hash__
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __len__ = __iter__ = __getitem__ = __mod__ = __mul__ = __rmul__ = __format__ = (
        _unknown
    )


@dataclass
class _Skeleton:
    """Alternating fixed texts and slots: texts[0], slot 0, texts[1], ...; and texts that no content may contain."""

    texts: list[str]
    slots: list[tuple[int, Callable[[str], str]]]
    needles: tuple[str, ...]
    checks: int = CHECKED

    def serves(self, messages: Messages) -> bool:
        return not any(needle in message.content for needle in self.needles for message in messages)

    def fill(self, messages: Messages) -> str:
        parts = [self.texts[0]]
        for text, (slot, trim) in zip(self.texts[1:], self.slots, strict=True):
            parts += (trim(messages[slot].content), text)
        return "".join(parts)


class Skeletons:
    """Renders conversations through a tokenizer's chat template.

    Args:
        tokenizer: A tokenizer with a chat template, which may change later.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[object, _Skeleton | None] = {}

    def render(self, messages: Messages, generation: bool, kwargs: dict[str, Any]) -> str:
        """Return the rendered conversation; raises whatever the template raises.

        Args:
            messages: The conversation.
            generation: Whether to add the generation prompt.
            kwargs: Other arguments of the template.
        """
        simple = not kwargs and all(not m.fields and not m.content.isspace() and m.content for m in messages)
        if not simple:
            return self._whole(messages, generation, kwargs)
        template = self._tokenizer.chat_template
        shape = (template if isinstance(template, str) else id(template), generation, *(message.role for message in messages))
        if shape not in self._known:
            if len(self._known) == KEPT:
                self._known.clear()
            self._known[shape] = self._skeleton(messages, generation)
        skeleton = self._known[shape]
        if skeleton is None or not skeleton.serves(messages):
            return self._whole(messages, generation, kwargs)
        filled = skeleton.fill(messages)
        if skeleton.checks:
            skeleton.checks -= 1
            whole = self._whole(messages, generation, kwargs)
            if whole != filled:
                self._known[shape] = None
            return whole
        return filled

    def _whole(self, messages: Messages, generation: bool, kwargs: dict[str, Any]) -> str:
        rendered = self._tokenizer.apply_chat_template(turns(messages), tokenize=False, add_generation_prompt=generation, **kwargs)
        assert isinstance(rendered, str)
        return rendered

    def _skeleton(self, messages: Messages, generation: bool) -> _Skeleton | None:
        """Return the skeleton of a shape; None: there is none."""
        try:
            source = self._tokenizer.get_chat_template()
            template = _compiled(source)
            if not _tracked(template.environment.parse(source)):
                return None
            record = _Record()
            marked = [{"role": m.role, "content": _Content.of(f"\ue000{i}r\ue001", record)} for i, m in enumerate(messages)]
            names = dict(self._tokenizer.special_tokens_map)
            written = template.render(messages=marked, tools=None, documents=None, add_generation_prompt=generation, **names)
            if not record.known:
                return None
            pieces = _SLOT.split(written)
            slots = [(int(slot), _TRIMS[kind]) for slot, kind in zip(pieces[1::3], pieces[2::3], strict=True)]
            skeleton = _Skeleton(pieces[0::3], slots, tuple(record.needles))
            nasty = tuple(type(m)(m.role, f"{_NASTY}{i}{_NASTY}") for i, m in enumerate(messages))
            same = skeleton.serves(nasty) and skeleton.fill(nasty) == self._whole(nasty, generation, {})
            return skeleton if same else None
        except Exception:  # errors of the template are raised again when it runs on the conversation itself
            return None


def _tracked(tree: nodes.Template) -> bool:
    """Return whether a template has only constructs that can be tracked, and does not use the date."""
    filters = {each.name for each in tree.find_all(nodes.Filter)}
    dated = any(each.name == "strftime_now" for each in tree.find_all(nodes.Name))
    texts = [*(each.left for each in tree.find_all(nodes.Mod)), *(each.node for each in tree.find_all(nodes.Getattr))]
    filled = any(isinstance(text, nodes.Const) and isinstance(text.value, str) for text in texts)  # '%s' % content, ''.join(...)
    return filters <= _FILTERS and not dated and not filled and next(tree.find_all(_UNTRACKED), None) is None


def _compiled(source: str) -> Any:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(source)
