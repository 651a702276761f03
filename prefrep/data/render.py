"""Records -> text: chat templates, transcripts without one, and the format of pair models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedTokenizerBase

from prefrep.errors import RecordError
from prefrep.records import Message, Messages

Template = Literal["auto", "chat", "plain", "official", "classifier", "openrlhf", "rlhflow"]
FOREIGN: tuple[Template, ...] = ("official", "classifier", "openrlhf", "rlhflow")  # recipes of other programs
NAMES = {"user": "Human", "assistant": "Assistant", "system": "System", "tool": "Tool"}  # of roles in transcripts


@dataclass(frozen=True, slots=True)
class Text:
    """A rendered text.

    Args:
        text: The text.
        prompt: Number of its characters that belong to the prompt.
        first: Its part up to the end of the first message, for template `official`.
        ends: Whether an EOS follows.
    """

    text: str
    prompt: int
    first: str = ""
    ends: bool = True


class Renderer:
    """Renders prompts and responses for one tokenizer.

    Args:
        tokenizer: A tokenizer with an EOS token.
        template: See `EncodeConfig`.
        start: Text in front of responses that have no prompt.
        policy: See `Encoder`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template, start: str, policy: bool) -> None:
        self._tokenizer, self._template, self._start, self._policy = tokenizer, template, start, policy

    @property
    def transcripts(self) -> bool:
        """Whether conversations become transcripts, without a chat template."""
        return self._template == "plain" or not self._tokenizer.chat_template

    def chat(self, messages: Messages, generation: bool = False) -> str:
        """Apply the chat template, with the generation prompt on request."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation)
        assert isinstance(rendered, str)
        return rendered

    def prompt(self, prompt: Messages) -> Text:
        """Render a prompt up to the position where its response begins.

        Raises:
            RecordError: The prompt is empty, or the chat template rejects it.
        """
        if not any(message.content.strip() for message in prompt):
            raise RecordError("a prompt", "it is empty, so there is nothing to answer", "remove it")
        if self.transcripts:
            text = _open(prompt)
            return Text(text, len(text), ends=False)
        try:
            rendered = self.chat(prompt, generation=True)
        except Exception as error:  # jinja2 raises whatever a template's author wrote
            raise template_error(f"the prompt {prompt[-1].content!r:.60}", error) from error
        return Text(rendered, len(rendered), ends=False)

    def single(self, prompt: Messages, response: Messages) -> Text:
        """Render a prompt with one response; raises whatever the chat template raises."""
        if self._template == "official":
            whole, first = self.chat(prompt + response), self.chat((prompt + response)[:1])
            return Text(whole, len(os.path.commonprefix([whole, first])), first)
        if self.transcripts or (self._template not in FOREIGN and not prompt and len(response) == 1):
            return self._plain(prompt, response)
        whole = self.chat(prompt + response)
        if self._template == "openrlhf":
            whole, eos = whole.rstrip("\n"), str(self._tokenizer.eos_token)
            whole = whole if whole.endswith(eos) else f"{whole} {eos}"
        elif self._template != "classifier":
            whole = whole.rstrip()
        if not prompt:  # whole conversations
            return Text(whole, 0)
        # Templates that rewrite earlier turns do not render the prompt as a prefix, so the common prefix counts as the prompt.
        return Text(whole, len(os.path.commonprefix([whole, self.chat(prompt, generation=True)])))

    def _plain(self, prompt: Messages, response: Messages) -> Text:
        if not prompt:
            return Text(self._start + plain(response), len(self._start))
        if self._policy:
            before = _open(prompt, response[0].role)
            return Text(before + plain(response), len(before))
        return Text(transcript(prompt + response), len(transcript((*prompt, replace(response[0], content="")))))

    def pair(self, prompt: Messages, a: Messages, b: Messages) -> Text:
        """Render two responses up to the answer A or B, in the format of RLHFlow/RLHF-Reward-Modeling (pair-pm/process_pair_data.py).

        Template `rlhflow` also leaves out what the published example of RLHFlow's models leaves out: the BOS and the generation prompt.
        """
        published = self._template == "rlhflow"
        roles = [("user", "assistant")[i % 2] if published else m.role for i, m in enumerate(prompt)]
        turns = "".join(f"\n<turn> {role}\n {m.content}" for role, m in zip(roles, prompt, strict=True))
        context = f"[CONTEXT] \n{turns}\n "
        body = f"{context}[RESPONSE A] {plain(a)} [RESPONSE B] {plain(b)} \n"
        if not self.transcripts:
            rendered = self.chat((Message("user", body),), generation=not published)
            if published and self._tokenizer.bos_token:
                rendered = rendered.replace(str(self._tokenizer.bos_token), "")
            at = rendered.find(context)
            return Text(rendered, at + len(context) if at >= 0 else 0, ends=False)
        return Text(body, len(context), ends=False)


def template_error(source: str, error: Exception) -> RecordError:
    """Return the error for a record that the chat template rejects."""
    return RecordError(source, f"the tokenizer's chat template refuses it ({error})", "use template: plain, or another tokenizer")


def plain(messages: Sequence[Message]) -> str:
    """Return the content of a single message, or the transcript of several."""
    return messages[0].content if len(messages) == 1 else transcript(messages)


def transcript(messages: Sequence[Message]) -> str:
    """Label messages like Anthropic's transcripts."""
    return "".join(f"\n\n{NAMES.get(m.role, m.role)}: {m.content}" for m in messages)


def _open(prompt: Messages, role: str = "assistant") -> str:
    """Return the transcript of a prompt up to the response, without the space before it."""
    return transcript((*prompt, Message(role, "")))[:-1]
