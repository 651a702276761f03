"""Server: throughput against `prefrep score`, prompts that clients share, latency, memory, startup time.

The server is a separate process, and its clients are threads of this one, on the same machine.
"""

from __future__ import annotations

import argparse
import random
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
from benchmarks.models import SMOLLM2, TINY
from benchmarks.start import prepare

WORDS = "time year people way day man thing woman life child world school state family student group country problem hand part".split()
CLIENTS = 64


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--models", nargs="+", default=[SMOLLM2, TINY], help="bundled names or folders")
    it.add_argument("--records", type=int, default=192, help="number of scored pairs")
    it.add_argument("--requests", type=int, default=20_000, help="number of requests over which memory is measured, with the last model")
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
    short = name.removeprefix("bundled:")
    with server(folder) as (process, url, ready):
        report.goal(f"serve: start to ready, {short}", ready, 15.0, at_least=False, unit=" s")
        throughput(report, short, folder, url, options)
        sharing(report, short, url, options)
        if name == options.models[-1]:
            memory(report, short, process.pid, url, options.requests)


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


def words(draw: random.Random, count: int) -> str:
    """Return a text of about the given number of tokens."""
    return " ".join(draw.choices(WORDS, k=count))


def throughput(report: Report, short: str, folder: Path, url: str, options: argparse.Namespace) -> None:
    """Measure pairs per second of 64 clients, one pair per request, and of `RemoteScorer`, against a scorer in this process."""
    from prefrep.records import Comparison
    from prefrep.scoring import RemoteScorer, Scorer, ranked

    draw = random.Random(0)
    bodies = [{"prompt": words(draw, 60), "responses": [words(draw, 60), words(draw, 60)]} for _ in range(options.records)]
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

    def kept(name: str, work: Callable[[], list[float]]) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            found[name] = work()
            return time.perf_counter() - started

        return run

    variants = {
        "prefrep score": kept("prefrep score", lambda: list(local.compare(pairs))),
        f"{CLIENTS} clients, one pair a request": kept("clients", lambda: concurrently(url, CLIENTS, bodies, ask)),
        "RemoteScorer": kept("remote", lambda: list(remote.compare(pairs))),
    }
    for run in variants.values():
        run()
    latencies.clear()
    seconds = interleave(variants, options.rounds)
    for other in ("clients", "remote"):
        worst = max(abs(a - b) for a, b in zip(found[other], found["prefrep score"], strict=True))
        report.note(f"{short}, {other}: log-odds differ by at most {worst:.1e}")
    base = seconds["prefrep score"]
    rows = [[name, median_ratio(base, times), len(bodies) / median(times)] for name, times in seconds.items()]
    report.table(f"throughput, {short}, {len(bodies)} pairs of 120 tokens a response", ["", "/ prefrep score", "pairs / s"], rows)
    cuts = quantiles(latencies, n=100)
    report.table(f"latency of {CLIENTS} clients, {short}", ["", "s"], [["p50", cuts[49]], ["p99", cuts[98]]])
    report.raw[f"seconds {short}"] = seconds
    report.goal(f"serve: {CLIENTS} clients against prefrep score, {short}", rows[1][1], 0.9, unit="x")


def sharing(report: Report, short: str, url: str, options: argparse.Namespace) -> None:
    """Measure eight clients with one prompt of 512 tokens and eight answers each, concurrently and one after the other."""
    draw = random.Random(1)

    def bodies() -> list[dict[str, Any]]:
        prompt = words(draw, 512)
        return [{"prompt": prompt, "responses": [words(draw, 24) for _ in range(8)]} for _ in range(8)]

    def ask(client: httpx.Client, body: dict[str, Any]) -> None:
        client.post("/v1/table", json=body).raise_for_status()

    def timed_with(clients: int) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            concurrently(url, clients, bodies(), ask)
            return time.perf_counter() - started

        return run

    seconds = interleave({"alone": timed_with(1), "together": timed_with(8)}, options.rounds)
    ratio = median_ratio(seconds["alone"], seconds["together"])
    report.table(
        f"8 clients, one prompt of 512 tokens, 8 answers of 24 each, {short}", ["", "speed", "s"],
        [["each request read alone", 1.0, median(seconds["alone"])], ["read together", ratio, median(seconds["together"])]],
    )  # fmt: skip
    report.goal(f"serve: one prompt of 8 clients, together against alone, {short}", ratio, 3.0, unit="x")


def memory(report: Report, short: str, process: int, url: str, requests: int) -> None:
    """Measure resident memory after a tenth of the requests and after all of them."""
    draw = random.Random(2)

    def ask(client: httpx.Client, number: int) -> float:
        body = {"prompt": words(draw, draw.randrange(1, 60)), "responses": [words(draw, 20), words(draw, 20)]}
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
            with httpx.Client(base_url=url, timeout=3600) as mine:
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


def resident(process: int) -> float:
    """Return the resident memory of a process in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    main()
