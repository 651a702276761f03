"""Records -> text: chat templates, transcripts without one, continuations, and the format of pair models."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from prefrep.data import recipes
from prefrep.data.control import Mask
from prefrep.data.fidelity import Unshown, check, unshown_in_transcripts
from prefrep.data.skeletons import Skeletons
from prefrep.errors import RecordError
from prefrep.records import Message, Messages

Template = Literal[
    "auto", "chat", "plain", "concat", "official", "classifier", "openrlhf", "rlhflow", "framed", "segments", "pairrm", "better_pairrm",
    "steamshp",
]  # fmt: skip
# Recipes of other programs, which read control tokens in texts as such.
FOREIGN: tuple[Template, ...] = (
    "official", "classifier", "openrlhf", "rlhflow", "framed", "segments", "pairrm", "better_pairrm", "steamshp"
)  # fmt: skip
PAIR_FORMATS = ("rlhflow", *recipes.PAIRS)
CHATS = ("chat", "official", "classifier", "openrlhf", "rlhflow", "framed")  # need a chat template
NAMES = {"user": "Human", "assistant": "Assistant", "system": "System", "tool": "Tool"}  # of roles in transcripts
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Text:
    """A rendered text.

    Args:
        text: The text.
        prompt: Number of its characters that belong to the prompt.
        first: Its part up to the end of the first message, for template `official`.
        ends: Whether an EOS follows.
        hidden: Whether control tokens are hidden in it (`data.control`).
        parts: The segments that make it up, which the tokenizer joins with special tokens (`data.recipes`); empty: it adds none.
    """

    text: str
    prompt: int
    first: str = ""
    ends: bool = True
    hidden: bool = False
    parts: tuple[str, ...] = ()


class Renderer:
    """Renders prompts and responses for one tokenizer.

    Args:
        tokenizer: A tokenizer with an EOS token.
        template: See `EncodeConfig`.
        start: Text in front of responses that have no prompt.
        policy: See `Encoder`.
        given: Whether the responses of a policy are given, without the lead that it would sample.

    Attributes:
        events: Numbers of responses by the way they were rendered, and of what templates left out (`data.fidelity`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template, start: str, policy: bool, given: bool = False) -> None:
        self._tokenizer, self._template, self._start, self._policy, self._given = tokenizer, template, start, policy, given
        self._skeletons = Skeletons(tokenizer)
        self._prompt: tuple[Messages, Mapping[str, Any], str] | None = None
        self.events: Counter[str] = Counter()

    @property
    def transcripts(self) -> bool:
        """Whether conversations become transcripts, without a chat template."""
        return self._template == "plain" or (self._template != "concat" and not self._tokenizer.chat_template)

    @property
    def lead(self) -> str:
        """The part of the template that a policy has to generate before each response: the space after `Assistant:`.

        Most vocabularies hold words with a leading space, and hardly any word can follow a prompt that ends in one.
        """
        return " " if self.transcripts else ""

    @cached_property
    def mask(self) -> Mask:
        """Hides control tokens."""
        eos = str(self._tokenizer.eos_token)
        written = () if self.transcripts or self._template == "concat" else (self.written_end(),)
        return Mask(self._tokenizer, tuple(token for token in dict.fromkeys((eos, *written)) if token))

    def written_end(self) -> str:
        """Return the special token that the chat template writes after a response; empty if it writes none, or takes no such response."""
        mark = "\N{SNOWMAN}"
        try:
            whole = self.chat((Message("user", "?"), Message("assistant", mark)))
        except Exception:  # a template can demand other roles; the records that it renders will tell
            return ""
        added = self._tokenizer.added_tokens_decoder
        after = self._tokenizer(whole[whole.rfind(mark) + len(mark) :], add_special_tokens=False)["input_ids"]
        return next((added[token].content for token in after if token in added and added[token].special), "")

    def chat(self, messages: Messages, generation: bool = False, kwargs: Mapping[str, Any] = _NONE) -> str:
        """Apply the chat template, with the generation prompt on request."""
        return self._skeletons.render(messages, generation, dict(kwargs))

    def prompt(self, prompt: Messages) -> Text:
        """Render a prompt up to the position where its response begins, or goes on behind an assistant turn that is already there.

        Raises:
            RecordError: The prompt is empty, or the chat template rejects it.
        """
        if not any(message.content.strip() for message in prompt):
            raise RecordError("a prompt", "it is empty, so there is nothing to answer", "remove it")
        prompt, hidden = self._masked(prompt)
        try:
            text = self._before(prompt)
        except Exception as error:  # jinja2 raises whatever a template's author wrote
            raise template_error(f"the prompt {prompt[-1].content!r:.60}", error) from error
        return Text(text, len(text), ends=False, hidden=hidden)

    def _before(self, prompt: Messages) -> str:
        if len(prompt) > 1 and prompt[-1].role == "assistant":  # the beginning of the response
            return self._before(prompt[:-1]) + self.lead + prompt[-1].content
        if self._template == "concat":
            return _joined(prompt)
        return _open(prompt) if self.transcripts else self.chat(prompt, generation=True)

    def _masked(self, messages: Messages) -> tuple[Messages, bool]:
        hidden = self._template not in FOREIGN and self.mask.found(messages) is not None
        return (self.mask.hide(messages), True) if hidden else (messages, False)

    def _answer(self, response: Messages) -> tuple[Messages, bool]:
        return self._masked(response if self._template in FOREIGN else self.mask.ended(response))

    def single(self, prompt: Messages, response: Messages, kwargs: Mapping[str, Any] = _NONE) -> Text:
        """Render a prompt with one response; raises whatever the chat template raises.

        Args:
            prompt: The prompt.
            response: The response.
            kwargs: Other arguments of the chat template.

        Raises:
            Unshown: The template does not show a tool call or a tool.
        """
        if self._template == "official":
            whole, first = self.chat(prompt + response, kwargs=kwargs), self.chat((prompt + response)[:1], kwargs=kwargs)
            return Text(whole, len(os.path.commonprefix([whole, first])), first)
        (asked, a), (answer, b) = self._masked(prompt), self._answer(response)
        return replace(self._single(asked, answer, kwargs), hidden=True) if a or b else self._single(asked, answer, kwargs)

    def _single(self, prompt: Messages, response: Messages, kwargs: Mapping[str, Any]) -> Text:
        if self._template == "concat":
            self.events["as continuations"] += 1
            before = _joined(prompt)
            return Text(before + _joined(response, "response"), len(before))
        if self._template == "segments":
            self.events["as pairs of texts"] += 1
            unshown_in_transcripts(prompt + response, kwargs, self.events)
            parts = recipes.question_and_answer(prompt, response)
            return Text("".join(parts), len(parts[0]), parts=parts)
        if prompt and response[0].content[:1] in (" ", "\n"):
            self.events["that begin with a blank (continuations? template: concat)"] += 1
        if self.transcripts or (self._template not in FOREIGN and not prompt and len(response) == 1):
            self.events["as transcripts" if prompt or len(response) > 1 else "as bare texts"] += 1
            unshown_in_transcripts(prompt + response, kwargs, self.events)
            return self._plain(prompt, response)
        self.events["by the chat template"] += 1
        whole = self.chat(prompt + response, kwargs=kwargs)
        check(self.chat, prompt + response, kwargs, whole, self.events)
        if self._template == "openrlhf":
            whole, eos = whole.rstrip("\n"), str(self._tokenizer.eos_token)
            whole = whole if whole.endswith(eos) else f"{whole} {eos}"
        elif self._template not in ("classifier", "framed"):
            whole = whole.rstrip()
        if self._template == "framed":  # the gates of such models read where the user's last turn ends
            before = os.path.commonprefix([whole, self.chat(prompt, kwargs=kwargs) if prompt else ""])
            bos = str(self._tokenizer.bos_token or "")
            cut = len(bos) if bos and not self._start and whole.startswith(bos) else 0  # the tokenizer adds it
            return Text(whole[cut:], max(len(before) - cut, 0), parts=(whole[cut:],))
        if not prompt:  # whole conversations
            return Text(whole, 0)
        before = self._opened(prompt, kwargs)
        if whole.startswith(before):
            return Text(whole, len(before))
        # Templates that rewrite earlier turns do not render the prompt as a prefix, so the common prefix counts as the prompt.
        return Text(whole, len(os.path.commonprefix([whole, before])))

    def _opened(self, prompt: Messages, kwargs: Mapping[str, Any]) -> str:
        """Return the rendered prompt, which the responses of a record share."""
        if self._prompt is None or self._prompt[0] is not prompt or self._prompt[1] is not kwargs:
            self._prompt = prompt, kwargs, self.chat(prompt, generation=True, kwargs=kwargs)
        return self._prompt[2]

    def _plain(self, prompt: Messages, response: Messages) -> Text:
        if not prompt:
            return Text(self._start + plain(response), len(self._start))
        if self._policy:
            before = _open(prompt, response[0].role)
            return Text(transcript(prompt + response) if self._given else before + plain(response), len(before))
        return Text(transcript(prompt + response), len(transcript((*prompt, replace(response[0], content="")))))

    def pair(self, prompt: Messages, a: Messages, b: Messages, kwargs: Mapping[str, Any] = _NONE) -> Text:
        """Render two responses up to the answer A or B, in the format of RLHFlow/RLHF-Reward-Modeling (pair-pm/process_pair_data.py).

        Template `rlhflow` also leaves out what the published example of RLHFlow's models leaves out: the BOS and the generation prompt.

        Raises:
            Unshown: A response calls a tool, or the template gets tools, which this format has no place for.
        """
        self.events["as two answers in one text"] += 1
        unshown_in_transcripts(prompt + a + b, kwargs, self.events)
        if self._template in recipes.PAIRS:
            parts = recipes.PAIRS[self._template](prompt, a, b)
            return Text("".join(parts), 0, parts=parts)
        (prompt, x), (a, y), (b, z) = self._masked(prompt), self._answer(a), self._answer(b)
        hidden = x or y or z
        published = self._template == "rlhflow"
        roles = [("user", "assistant")[i % 2] if published else m.role for i, m in enumerate(prompt)]
        turns = "".join(f"\n<turn> {role}\n {m.content}" for role, m in zip(roles, prompt, strict=True))
        context = f"[CONTEXT] \n{turns}\n "
        body = f"{context}[RESPONSE A] {plain(a)} [RESPONSE B] {plain(b)} \n"
        if not self.transcripts and self._template != "concat":
            rendered = self.chat((Message("user", body),), generation=not published)
            if published and self._tokenizer.bos_token:
                rendered = rendered.replace(str(self._tokenizer.bos_token), "")
            at = rendered.find(context)
            return Text(rendered, at + len(context) if at >= 0 else 0, ends=False, hidden=hidden)
        return Text(body, len(context), ends=False, hidden=hidden)


def template_error(source: str, error: Exception) -> RecordError:
    """Return the error for a record that cannot be rendered."""
    if isinstance(error, Unshown):
        return RecordError(source, str(error), error.remedy)
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return RecordError(source, f"the tokenizer's chat template refuses it ({reason})", "use template: plain, or another tokenizer")


def plain(messages: Sequence[Message]) -> str:
    """Return the content of a single message, or the transcript of several."""
    return messages[0].content if len(messages) == 1 else transcript(messages)


def transcript(messages: Sequence[Message]) -> str:
    """Label messages like Anthropic's transcripts."""
    return "".join(f"\n\n{NAMES.get(m.role, m.role)}: {m.content}" for m in messages)


def _joined(messages: Messages, what: str = "prompt") -> str:
    """Return the text of a continuation's prompt or response.

    Raises:
        Unshown: There are several turns.
    """
    if len(messages) > 1 or any(message.fields for message in messages):
        raise Unshown(f"its {what} is a conversation, and template concat joins one text with another", "use template: chat or plain")
    return messages[0].content if messages else ""


def _open(prompt: Messages, role: str = "assistant") -> str:
    """Return the transcript of a prompt up to the response, without the space before it."""
    return transcript((*prompt, Message(role, "")))[:-1]
