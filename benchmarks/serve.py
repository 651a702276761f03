"""Server: throughput against `prefrep score`, prompts that clients share, latency, memory, startup time.

The server is a separate process, and its clients are threads of this one, on the same machine.
"""

from __future__ import annotations

import argparse
import os
import random
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

from benchmarks.common import ROOT, Report, arguments, interleave, median_ratio
from benchmarks.models import SMOLLM2, TINY, tokenizer_of
from benchmarks.start import prepare

WORDS = "time year people way day man thing woman life child world school state family student group country problem hand part".split()
CLIENTS = 64
WITHOUT_TLS = ssl.create_default_context()  # made once: a context of its own for each client would cost more than its requests
ANSWERS = (8, 24)  # tokens of an answer where eight clients share a prompt: the shorter, the more of the work is the prompt


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--models", nargs="+", default=[SMOLLM2, TINY], help="bundled names or folders")
    it.add_argument("--records", type=int, default=64, help="number of scored pairs; 32 times as many with the tiny model")
    it.add_argument("--length", type=int, default=40, help="number of tokens of their prompts and of each answer")
    it.add_argument("--requests", type=int, default=20_000, help="number of requests over which memory is measured, with the tiny model")
    it.add_argument("--rounds", type=int, default=3)
    return it


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    if options.quick:
        options.models, options.records, options.requests, options.rounds = [TINY], 64, 300, 1
    report = Report("serve", options)
    for name in options.models:
        measure(report, name, options)
    report.save()


def measure(report: Report, name: str, options: argparse.Namespace) -> None:
    """Measure one model."""
    folder, _ = prepare(name)
    short, texts = name.removeprefix("bundled:"), Texts(name)
    with server(folder) as (process, url, ready):
        report.goal(f"serve: start to ready, {short}", ready, 15.0, at_least=False, unit=" s")
        report.note(f"{short}: ready after {computed(process.pid):.1f} s of CPU time")
        throughput(report, short, folder, process.pid, url, texts, options)
        for answer in ANSWERS:
            sharing(report, short, url, texts, answer, options.rounds)
        if name == TINY:
            memory(report, short, process.pid, url, texts, options.requests)


@contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """Start a server of a folder; yield its process, its address, and the seconds from start to ready."""
    command = [sys.executable, "-m", "prefrep", "serve", "--model", str(folder), "--port", "0", "--timeout", "3600"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    if "listening on " not in line:
        raise SystemExit(line + process.stderr.read())
    url = line.split("listening on ")[1].split(";")[0]
    try:
        while httpx.get(f"{url}/ready").status_code != 200:
            if process.poll() is not None:
                raise SystemExit(process.stderr.read())
            time.sleep(0.05)
        yield process, url, time.perf_counter() - started
    finally:
        process.terminate()
        process.communicate(timeout=120)


class Texts:
    """Texts of a length in tokens of a model.

    Args:
        model: Bundled name or folder.
    """

    def __init__(self, model: str) -> None:
        tokenizer = tokenizer_of(model)
        self._lengths = {word: len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in WORDS}

    def __call__(self, draw: random.Random, tokens: int) -> str:
        """Return a text of the given number of tokens, or up to a word more."""
        found: list[str] = []
        while tokens > 0:
            found.append(draw.choice(WORDS))
            tokens -= self._lengths[found[-1]]
        return " ".join(found)


def throughput(report: Report, short: str, folder: Path, process: int, url: str, texts: Texts, options: argparse.Namespace) -> None:
    """Measure pairs per second of 64 clients, one pair per request, and of `RemoteScorer`, against a scorer in this process."""
    from prefrep.records import Comparison
    from prefrep.scoring import RemoteScorer, Scorer, ranked

    draw = random.Random(0)
    count, length = options.records * (32 if short in TINY else 1), options.length
    bodies = [{"prompt": texts(draw, length), "responses": [texts(draw, length), texts(draw, length)]} for _ in range(count)]
    records = [ranked(body["prompt"], body["responses"]) for body in bodies]
    pairs = [Comparison(each.prompt, *each.responses) for each in records]
    local, remote = Scorer.from_pretrained(folder), RemoteScorer(url)
    found: dict[str, list[float]] = {}
    latencies: list[float] = []

    def ask(client: httpx.Client, body: dict[str, Any]) -> float:
        started = time.perf_counter()
        odds: float = client.post("/v1/compare", json=body).raise_for_status().json()["log_odds"]
        latencies.append(time.perf_counter() - started)
        return odds

    ways: dict[str, Callable[[int], list[float]]] = {
        "prefrep score": lambda count: list(local.compare(pairs[:count])),
        f"{CLIENTS} clients, one pair a request": lambda count: concurrently(url, CLIENTS, bodies[:count], ask),
        "RemoteScorer": lambda count: list(remote.compare(pairs[:count])),
    }

    def kept(name: str, work: Callable[[int], list[float]]) -> Callable[[], float]:
        def run() -> float:
            worker = os.getpid() if name == next(iter(ways)) else process
            used, started = computed(worker), time.perf_counter()
            found[name] = work(len(bodies))
            elapsed = time.perf_counter() - started
            computing[name].append(computed(worker) - used)
            return elapsed

        return run

    computing: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work(8)  # warm
    latencies.clear()
    seconds = interleave({name: kept(name, work) for name, work in ways.items()}, options.rounds)
    for name in list(ways)[1:]:
        worst = max(abs(a - b) for a, b in zip(found[name], found["prefrep score"], strict=True))
        report.note(f"{short}, {name}: log-odds differ by at most {worst:.1e}")
    base = seconds["prefrep score"]
    rows = [
        [name, median_ratio(base, times), len(bodies) / median(times), 1000 * median(computing[name]) / len(bodies)]
        for name, times in seconds.items()
    ]
    report.table(
        f"throughput, {short}, {count} pairs: a prompt of {length} tokens, answers of {length}",
        ["", "/ prefrep score", "pairs / s", "CPU ms / pair"],
        rows,
    )
    cuts = quantiles(latencies, n=100)
    report.table(f"latency of {CLIENTS} clients, {short}", ["", "s"], [["p50", cuts[49]], ["p99", cuts[98]]])
    report.raw[f"seconds {short}"] = seconds
    report.goal(f"serve: {CLIENTS} clients against prefrep score, {short}", rows[1][1], 0.9, unit="x")


def sharing(report: Report, short: str, url: str, texts: Texts, answer: int, rounds: int) -> None:
    """Measure eight clients with one prompt of 512 tokens and eight answers each, concurrently and one after the other."""
    draw = random.Random(1)

    def bodies() -> list[dict[str, Any]]:
        prompt = texts(draw, 512)
        return [{"prompt": prompt, "responses": [texts(draw, answer) for _ in range(8)]} for _ in range(8)]

    def ask(client: httpx.Client, body: dict[str, Any]) -> None:
        client.post("/v1/table", json=body).raise_for_status()

    tokens: dict[int, list[int]] = {1: [], 8: []}

    def timed_with(clients: int) -> Callable[[], float]:
        def run() -> float:
            asked, before, started = bodies(), read_tokens(url), time.perf_counter()
            concurrently(url, clients, asked, ask)
            elapsed = time.perf_counter() - started
            tokens[clients].append(read_tokens(url) - before)
            return elapsed

        return run

    seconds = interleave({"alone": timed_with(1), "together": timed_with(8)}, rounds)
    ratio = median_ratio(seconds["alone"], seconds["together"])
    report.table(
        f"8 clients, one prompt of 512 tokens, 8 answers of {answer} each, {short}", ["", "speed", "tokens read", "s"],
        [["each request read alone", 1.0, int(median(tokens[1])), median(seconds["alone"])],
         ["read together", ratio, int(median(tokens[8])), median(seconds["together"])]],
    )  # fmt: skip
    report.goal(f"serve: one prompt of 8 clients, together against alone, answers of {answer}, {short}", ratio, 3.0, unit="x")


def read_tokens(url: str) -> int:
    """Return the number of distinct tokens that the server has read so far."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("prefrep_tokens_read_total{")))


def memory(report: Report, short: str, process: int, url: str, texts: Texts, requests: int) -> None:
    """Resident memory after a tenth of the requests and after all of them."""
    draw = random.Random(2)

    def ask(client: httpx.Client, number: int) -> float:
        body = {"prompt": texts(draw, draw.randrange(1, 60)), "responses": [texts(draw, 20), texts(draw, 20)]}
        client.post("/v1/table", json=body).raise_for_status()
        return 0.0

    first = requests // 10
    concurrently(url, 16, range(first), ask)
    before = resident(process)
    concurrently(url, 16, range(requests - first), ask)
    after = resident(process)
    report.table(f"resident memory, {short}", ["requests", "MiB"], [[str(first), before], [str(requests), after]])
    report.goal(f"serve: memory after {requests} requests / after {first}, {short}", after / before, 1.05, at_least=False, unit="x")


def concurrently(url: str, clients: int, items: Sequence[Any], ask: Callable[[httpx.Client, Any], Any]) -> list[Any]:
    """Return the answers to all items, which clients with one connection each take in turn."""
    answers: list[Any] = [None] * len(items)
    failed: list[BaseException] = []

    def client(first: int) -> None:
        try:
            with httpx.Client(base_url=url, timeout=3600, verify=WITHOUT_TLS) as mine:
                for i in range(first, len(items), clients):
                    answers[i] = ask(mine, items[i])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return answers


def computed(process: int) -> float:
    """Return the CPU seconds of a process, which do not depend on what else the machine does."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> float:
    """Return the resident memory of a process in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    main()
