"""Judges that write behind an OpenAI-compatible endpoint (extra `judge`)."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from prefrep.errors import ConfigError
from prefrep.judges.writing.asking import Question
from prefrep.judges.writing.reading import TAIL, UNANSWERED, Finish, Reply
from prefrep.judges.writing.writers import Proceed, Received, always, unkept
from prefrep.web import ServerError, address

log = logging.getLogger(__name__)

LISTED = (20, 5)  # alternatives asked for: what OpenAI gives, and what others give
LIMITS = ("max_tokens", "max_completion_tokens")  # names of the longest answer: everybody's, and that of OpenAI's newer models
UNPAID = "none"  # key of servers that ask for none


class EndpointWriter:
    """A language model behind `/chat/completions`.

    The `openai` client waits and asks again where a server is busy (429, with Retry-After), failing (5xx) or silent. Whether
    log-probabilities are given, and how the longest answer is named (`max_tokens`, or `max_completion_tokens` where the server says so), is
    found out with the first question.

    Args:
        model: Name of the model there.
        url: Base URL, such as `http://127.0.0.1:8000/v1`.
        key_env: Environment variable that holds the key; where it is not set, the word "none" is sent.
        concurrency: Requests in flight at a time.
        timeout: Seconds for one request.
        attempts: How often a request is repeated that got no answer.

    Raises:
        ConfigError: The package `openai` is not installed, or the URL is none or holds a password.
    """

    def __init__(
        self, model: str, url: str, key_env: str = "OPENAI_API_KEY", concurrency: int = 8, timeout: float = 120.0, attempts: int = 5
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError("a judge with a url needs the package openai; install it with pip install 'prefrep[judge]'") from error
        self.model, self.url, self.concurrency = model, address(url, f"the judge {model}", key_env), concurrency
        self._key_env, self._key = key_env, os.environ.get(key_env) or UNPAID
        self._openai: Any = openai
        self._client = openai.OpenAI(api_key=self._key, base_url=self.url, timeout=timeout, max_retries=attempts)
        self._attempts, self._timeout = attempts, timeout
        self._listed: int | None = LISTED[0]
        self._limit = LIMITS[0]
        self._probed, self._unreached = False, 0

    def who(self) -> dict[str, Any]:
        """See `Writer`."""
        return {"model": self.model, "url": self.url}

    def load(self) -> None:
        """Nothing: the server may start later."""

    def ask(self, questions: Sequence[Question], proceed: Proceed = always, received: Received = unkept) -> Generator[tuple[int, Reply]]:
        """See `Writer`.

        Raises:
            ServerError: The server cannot be reached, or refuses the key or the model.
        """

        def asked(place: int) -> Reply:
            reply = self._reply(questions[place]) if self._probed else self._probe(questions[place])
            received(place, reply)
            return reply

        rest = deque(range(len(questions)))
        while rest and not self._probed and proceed():
            place = rest.popleft()
            yield place, asked(place)
        waiting: dict[Future[Reply], int] = {}
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            while rest or waiting:
                while rest and len(waiting) < self.concurrency and proceed():
                    place = rest.popleft()
                    waiting[pool.submit(asked, place)] = place
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for each in done:
                    yield waiting.pop(each), each.result()
                    if self._unreached > 2 * self.concurrency:
                        raise self._gone(each.result())
        finally:
            wait(waiting, self._timeout)  # what is in flight is paid for, so its answers shall be kept
            pool.shutdown(wait=False, cancel_futures=True)

    def _probe(self, question: Question) -> Reply:
        """Ask the first question, and find out how the longest answer is named and whether alternatives are listed."""
        reply = self._reply(question)
        if reply.finish == "refused" and LIMITS[1] in reply.text:
            self._limit = LIMITS[1]
            reply = self._reply(question)
            if reply.finish == "refused" and LIMITS[1] in reply.text:  # it does not know this name either, and the limit must not be lost
                self._limit = LIMITS[0]
        while reply.finish == "refused" and self._listed is not None:  # perhaps only because of what it was asked to list
            self._listed = next((each for each in LISTED if each < self._listed), None)
            reply = self._reply(question)
        if reply.finish in UNANSWERED:
            if self._unreached:
                raise self._gone(reply)
            return reply  # the next question will tell
        self._probed = True
        if reply.tail:
            log.info("%s at %s gives log-probabilities: probabilities are those of tokens", self.model, self.url)
        else:
            self._listed = None
            log.info("%s at %s gives no log-probabilities: probabilities come from counted verdicts; samples=N asks N times",
                     self.model, self.url)  # fmt: skip
        return reply

    def _gone(self, reply: Reply) -> ServerError:
        return ServerError(f"{self.url}: no answer from {self.model} ({reply.text:.300}); is the server running there?")

    def _reply(self, question: Question) -> Reply:
        """Return the answer to a question, and count those in a row for which there was no server."""
        reply, reached = self._answer(question)
        self._unreached = 0 if reached else self._unreached + 1
        return reply

    def _answer(self, question: Question) -> tuple[Reply, bool]:
        """Return the answer to a question, and whether a server was there."""
        openai = self._openai
        for attempt in range(self._attempts + 1):
            try:
                return self._read(self._client.chat.completions.create(**self._body(question))), True
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise ServerError(self._clean(f"{self.url}: refuses the key ({_said(error)}); set {self._key_env}")) from None
            except openai.NotFoundError as error:
                raise ServerError(self._clean(f"{self.url}: there is no {self.model} ({_said(error)}); name a model it has")) from None
            except openai.APITimeoutError as error:
                return Reply(self._clean(_said(error)), "time-out"), False
            except (openai.BadRequestError, openai.UnprocessableEntityError, openai.ConflictError) as error:
                return Reply(self._clean(_said(error)), "refused"), True
            except openai.APIStatusError as error:  # the client has asked again where that helps
                return Reply(self._clean(_said(error)), "error"), True
            except openai.APIConnectionError as error:
                return Reply(self._clean(f"{_said(error)} {error.__cause__ or ''}".strip()), "error"), False
            except Exception as error:  # a body that ends early, that is no JSON or that is something else breaks in many ways
                if attempt == self._attempts:
                    return Reply(self._clean(f"{type(error).__name__}: {error}")[:500], "error"), True
        raise AssertionError("unreachable")

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [each.as_dict() for each in question.messages],
            self._limit: question.max_tokens,
            "temperature": question.temperature,
        }
        if question.temperature > 0:
            body["seed"] = question.seed
        if self._listed is not None:
            body |= {"logprobs": True, "top_logprobs": self._listed}
        if question.constraint == "choice":
            labels = list(question.labels)  # vLLM's name since 0.12 and the one before; each ignores the other
            body["extra_body"] = {"structured_outputs": {"choice": labels}, "guided_choice": labels}
        elif question.constraint == "json":
            schema = {"type": "object", "properties": {"verdict": {"enum": list(question.labels)}}, "required": ["verdict"]}
            strict = {"name": "verdict", "schema": {**schema, "additionalProperties": False}, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": strict}
        return body

    def _read(self, completion: Any) -> Reply:
        choice = completion.choices[0]
        message, usage = choice.message, completion.usage
        listed = (choice.logprobs.content or []) if choice.logprobs is not None else []
        tail = tuple((str(each.token), {str(top.token): float(top.logprob) for top in each.top_logprobs}) for each in listed[-TAIL:])
        refusal = getattr(message, "refusal", None)
        finish: Finish = "length" if choice.finish_reason == "length" else "stop"
        if refusal or choice.finish_reason == "content_filter":
            finish = "filter"
        tokens = (int(usage.prompt_tokens), int(usage.completion_tokens)) if usage is not None else (0, 0)
        text = message.content if isinstance(message.content, str) else refusal or ""
        return Reply(text, finish, tail if any(tops for _, tops in tail) else (), *tokens)

    def _clean(self, text: str) -> str:
        """Return a text without the key, which servers repeat in their refusals."""
        plain = " ".join(text.split())
        return plain.replace(self._key, "(key)") if self._key != UNPAID else plain


def _said(error: Any) -> str:
    """Return what a server said, in one line and without what it was sent."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or json.dumps(body)[:300]
    return str(body or getattr(error, "message", error))[:300]
