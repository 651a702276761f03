"""A scorer elsewhere: the client of `prefrep serve`, with the interface of `Scorer` and without torch."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag

import httpx
import numpy as np
from numpy.typing import NDArray

from prefrep.errors import ConfigError, RecordError
from prefrep.records import Comparison, RankedResponses, as_responses, turns
from prefrep.scoring.asked import Said, ranked
from prefrep.web import RefusedError, ServerError, authorities, headers, request

if TYPE_CHECKING:
    from prefrep.data.encode import EncodeConfig

Floats = NDArray[np.float32]

RECORDS = 16  # per request: enough to make HTTP's overhead small, few enough to be answered in time
CHARACTERS = 200_000  # per request


class RemoteScorer:
    """A preference model behind `prefrep serve`; takes the place of a `Scorer`.

    Requests are repeated while the server is busy, starting or gone, until `patience` is over.

    Args:
        url: Address of the server, such as http://127.0.0.1:8000; `#NAME` at its end chooses one of several models.
        token: Bearer token; None: the environment variable PREFREP_TOKEN, or none.
        timeout: Seconds that one request may take.
        patience: Seconds for which a request is repeated.
        connections: Requests in flight.
        blocks: Whether `tables` yields log-odds by block, as `BlockScorer` does.

    Raises:
        ServerError: The server cannot be reached, or has no such model.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout: float = 180.0,
        patience: float = 60.0,
        connections: int = 8,
        blocks: bool = False,
    ) -> None:
        base, name = urldefrag(url)
        self.url, self._patience, self._connections, self._blocks = base.rstrip("/"), patience, connections, blocks
        limits, patient = httpx.Limits(max_connections=connections), httpx.Timeout(timeout, connect=10.0)
        self._client = httpx.Client(headers=headers(token), timeout=patient, limits=limits, verify=authorities())
        try:
            httpx.URL(self.url)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ServerError(f"{url}: not a URL ({error}); write http://HOST:PORT") from error
        self._request("GET", "/ready", None)
        models = self._request("GET", "/v1/models", None)["data"]
        known = {each["id"]: each for each in models}
        if name and name not in known:
            raise ServerError(f"{url}: the server has no model {name!r}; it has {', '.join(known)}")
        self.about: dict[str, Any] = known[name] if name else models[0]
        self._encoded: Counter[str] = Counter()

    # ---- questions about one prompt

    def table(self, prompt: Said, responses: Sequence[Said], annotator: str = "") -> Floats:
        """See `Scorer.table`; one annotator at a time."""
        if annotator and "annotators" not in self.about["describe"]:
            raise ConfigError(f"{self.url}: the model answers everybody alike, so no annotator can be asked; leave annotator out")
        return next(self.tables([replace(ranked(prompt, responses), annotator=annotator)]))

    def rank(self, prompt: Said, responses: Sequence[Said]) -> list[int]:
        """See `Scorer.rank`."""
        return [int(i) for i in np.argsort(-self.table(prompt, responses).mean(axis=1), kind="stable")]

    # ---- streams

    @property
    def annotators(self) -> None:
        """A server does not list people; `table` asks one by name."""

    @property
    def pairwise(self) -> bool:
        """See `Scorer.pairwise`."""
        return bool(self.about["pairwise"])

    @property
    def chats(self) -> bool:
        """See `Scorer.chats`."""
        return bool(self.about["chat"])

    @property
    def encode(self) -> EncodeConfig:
        """See `Scorer.encode`. Raises ConfigError: a judge that writes answers there."""
        from prefrep.data.encode import EncodeConfig

        if "encode" not in self.about["describe"]:
            raise ConfigError(
                f"{self.url}: {self.about['id']} is a judge that writes, which may give no verdict and encodes nothing; take the "
                "GenerativeJudge itself in place of its server"
            )
        return EncodeConfig(**self.about["describe"]["encode"])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the folder that the server has loaded."""
        return str(self.about["fingerprint"])

    def compare(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[float]:
        """See `Scorer.compare`.

        Raises:
            RecordError: The server cannot read a record.
            ServerError: The server cannot be reached, or refuses.
        """
        return self._stream("/v1/compare", map(as_responses, comparisons), progress, lambda row: float(np.float32(row["log_odds"])))

    def compare_rewards(self, comparisons: Iterable[Comparison], *, progress: str | None = None) -> Iterator[tuple[float, float, float]]:
        """See `Scorer.compare_rewards`; errors as in `compare`."""
        for chosen, rejected in self.rewards(map(as_responses, comparisons), progress=progress):
            yield float(chosen - rejected), float(chosen), float(rejected)

    def tables(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """See `Scorer.tables`; errors as in `compare`."""
        return self._stream("/v1/table", records, progress, lambda row: np.array(row.get("blocks", row["table"]), np.float32))

    def tables_of(self, records: Iterable[RankedResponses], annotators: Sequence[str], *, progress: str | None = None) -> Iterator[Floats]:
        """Refuse. Raises ConfigError: a server does not list people."""
        raise ConfigError(f"{self.url}: a server is asked for one annotator at a time; score with the exported folder to ask many")

    def rewards(self, records: Iterable[RankedResponses], *, progress: str | None = None) -> Iterator[Floats]:
        """See `Scorer.rewards`; errors as in `compare`."""
        if self.pairwise:
            raise ConfigError("this model compares responses and gives no reward to a single one; use tables")
        return self._stream("/v1/rewards", records, progress, lambda row: np.array(row["rewards"], np.float32))

    def describe(self) -> dict[str, Any]:
        """Return the description of the server's scorer; `encoded` counts the records of this client."""
        return {**self.about["describe"], "encoded": dict(self._encoded)}

    # ---- work

    def _stream(self, path: str, records: Iterable[RankedResponses], progress: str | None, value: Callable[[Any], Any]) -> Iterator[Any]:
        from tqdm import tqdm

        windows, waiting = _windows(iter(records)), deque[Future[list[dict[str, Any]]]]()
        pool = ThreadPoolExecutor(self._connections, "remote")
        try:
            with tqdm(desc=progress, unit=" prompts", disable=progress is None) as bar:
                while True:
                    for window in islice(windows, self._connections - len(waiting)):
                        waiting.append(pool.submit(self._window, path, window))
                    if not waiting:
                        return
                    rows = waiting.popleft().result()
                    for row in rows:
                        encoded = {"records": 1} | row.get("encoded", {})
                        self._encoded.update(encoded)
                        bar.update()
                        yield value(row)
        finally:  # the consumer may stop early
            pool.shutdown(wait=False, cancel_futures=True)

    def _window(self, path: str, window: list[RankedResponses]) -> list[dict[str, Any]]:
        body = {"model": self.about["id"], "records": [self._plain(record) for record in window]}
        if self._blocks and path == "/v1/table":
            body["blocks"] = True
        try:
            rows: list[dict[str, Any]] = self._request("POST", path, body)["records"]
        except RefusedError as error:
            if error.status in (401, 402, 404):  # of the server, not of a record
                raise
            if len(window) > 1:  # one of them is wrong, and the others need not suffer
                return [row for record in window for row in self._window(path, [record])]
            said = str(error).replace("records[0].", "").replace("records[0]: ", "")
            raise RecordError(window[0].source or "a record", said) from error
        return rows

    def _plain(self, record: RankedResponses) -> dict[str, Any]:
        """Return a record as the server reads it; models that answer everybody alike are not told who judged."""
        plain: dict[str, Any] = {"prompt": turns(record.prompt), "responses": [turns(each) for each in record.responses]}
        if record.template_kwargs:
            plain["chat_template_kwargs"] = dict(record.template_kwargs)
        if record.annotator and "annotators" in self.about["describe"]:
            plain["annotator"] = record.annotator
        return plain

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        return request(self._client, method, self.url + path, body, self._patience)


def _windows(records: Iterator[RankedResponses]) -> Iterator[list[RankedResponses]]:
    """Group records into requests of bounded size."""
    window: list[RankedResponses] = []
    size = 0
    for record in records:
        length = sum(len(message.content) for each in (record.prompt, *record.responses) for message in each)
        if window and (len(window) == RECORDS or size + length > CHARACTERS):
            yield window
            window, size = [], 0
        window.append(record)
        size += length
    if window:
        yield window
