"""Texts of other people's preference models that are no chat: segments that the tokenizer joins with its special tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefrep.records import Message, Messages, text

_FILLED_IN = "Finish the following coversation in each i-th turn by filling in <Response i> with your response."


@dataclass(frozen=True)
class Segments:
    """How segments become one sequence.

    Args:
        together: Whether the tokenizer takes them as one text or text pair; else each has special tokens of its own.
        limits: Tokens of the first segment, and of all of them; None: no limits of their own. The others halve what is left.
        left: Whether the first segment loses its beginning, and not its end.
    """

    together: bool = True
    limits: tuple[int, int] | None = None
    left: bool = False


def steamshp(prompt: Messages, a: Messages, b: Messages) -> tuple[str, ...]:
    """Return the question of SteamSHP; texts lose their line breaks."""
    post, first, second = (" ".join(text(each).split("\n")) for each in (prompt, a, b))
    return (f"POST: {post}\n\n RESPONSE A: {first}\n\n RESPONSE B: {second}\n\n Which response is better? RESPONSE",)


def pairrm(prompt: Messages, a: Messages, b: Messages) -> tuple[str, ...]:
    """Return source and candidates of PairRM; of several turns, an instruction to fill in the responses, as LLM-Blender has it."""
    if len(prompt) == 1 and len(a) == len(b) == 1:
        source, first, second = text(prompt), text(a), text(b)
    else:
        asked, said = _turns((*prompt, *a))
        source = _FILLED_IN + "\n".join(f"USER: {each}\nAssistant: <Response {i}>" for i, each in enumerate(asked, 1))
        first, second = (
            "\n".join(f"<Response {i}>: {each}" for i, each in enumerate(found, 1)) for found in (said, _turns((*prompt, *b))[1])
        )
    return f"<|source|>{source}", f"<|candidate1|>{first}", f"<|candidate2|>{second}"


def better_pairrm(prompt: Messages, a: Messages, b: Messages) -> tuple[str, ...]:
    """Return source mark, source and candidates of Better-PairRM, whose source is a transcript that ends where the answer begins."""
    names = {"user": "USER: ", "assistant": "ASSISTANT: ", "system": "SYSTEM MESSAGE: "}
    source = "\n\n".join(names.get(message.role, "USER: ") + message.content.strip() for message in prompt)
    return "<|source|>", f"{source}\n\nASSISTANT: ", f"<|candidate1|>{text(a)}", f"<|candidate2|>{text(b)}"


def question_and_answer(prompt: Messages, response: Messages) -> tuple[str, ...]:
    """Return the two texts of a text-pair classifier; of several turns, a line each."""
    return text(prompt), text(response)


PAIRS: dict[str, Callable[[Messages, Messages, Messages], tuple[str, ...]]] = {
    "steamshp": steamshp,
    "pairrm": pairrm,
    "better_pairrm": better_pairrm,
}
SEGMENTS: dict[str, Segments] = {
    "framed": Segments(),
    "segments": Segments(),
    "steamshp": Segments(),
    "pairrm": Segments(together=False, limits=(1224, 2048)),
    "better_pairrm": Segments(together=False, limits=(2030, 3370), left=True),
}


def _turns(messages: Sequence[Message]) -> tuple[list[str], list[str]]:
    """Return the contents of the user's turns and of the assistant's."""
    return tuple([m.content for m in messages if (m.role == "assistant") is said] for said in (False, True))  # type: ignore[return-value]
