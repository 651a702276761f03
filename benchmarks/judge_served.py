"""Does a judge that writes say the same in this process and behind `transformers serve`?

    pip install 'transformers[serving]'
    transformers serve FOLDER --dtype float32 --device cpu --port 8111
    python -m benchmarks.judge_served --folder FOLDER --url http://127.0.0.1:8111/v1

FOLDER: a language model, such as the bundled one, which prefrep keeps converted in its cache. 50 pairs of short answers that ship with
prefrep, both orders, greedy, a marker or a letter asked for and nothing else. The server gives no log-probabilities, so that verdicts are
compared by which answer they prefer; answers are compared word by word.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path

from prefrep.data.sources import read
from prefrep.judges import GenerativeJudge
from prefrep.judges.writing.judgments import Judgment
from prefrep.records import Message, RankedResponses

PROMPT = """{{ conversation[-1].content }}
A: {{ answers[0].text }}
B: {{ answers[1].text }}
Which answer is better? Write {{ "A or B" if style == "letter" else "[[A]] or [[B]]" }} and nothing else."""
LENGTH, TOKENS = 60, 6  # characters of each text; tokens of an answer


def records(count: int) -> list[RankedResponses]:
    """Return pairs of answers, cut short."""
    found = []
    for record in read("bundled:ultrafeedback-mini"):
        if isinstance(record, RankedResponses) and len(record.prompt) == 1 and len(record.prompt[0].content) < 2 * LENGTH:
            cut = [(Message("assistant", each[-1].content[:LENGTH]),) for each in record.responses[:2]]
            if cut[0] != cut[1]:
                found.append(RankedResponses(record.prompt, tuple(cut), id=str(len(found))))
    return found[:count]


def winner(judgment: Judgment) -> str:
    """Return which answer a judgment prefers, or why none."""
    if judgment.values is None:
        return judgment.why
    first, second = judgment.values
    return "tie" if first == second else f"answer {judgment.places[0 if first > second else 1]}"


def main() -> None:
    """Ask both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--style", choices=("reasons", "letter"), default="reasons", help="letter: one token, which small models can say")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFREP_CACHE"] = folder  # nothing that was answered before
        prompt = Path(folder) / "marker.j2"
        prompt.write_text(PROMPT)
        asked = records(options.pairs)
        here, there = (
            GenerativeJudge(
                options.folder, url, style=options.style, prompt=str(prompt), max_tokens=TOKENS, timeout=600, concurrency=1, batch_size=1
            )
            for url in (None, options.url)
        )
        verdicts = [list(each.judgments(asked, progress=name)) for name, each in (("there", there), ("here", here))]
    pairs = list(zip(*verdicts, strict=True))
    same = sum(winner(one) == winner(other) for one, other in pairs)
    words = sum(one.replies == other.replies for one, other in pairs)
    print(f"{len(asked)} pairs, {len(pairs)} questions: {same} equal verdicts, {words} equal answers")
    for name, some in zip(("behind the server", "in this process"), verdicts, strict=True):
        none = Counter(each.why for each in some if each.values is None)
        commonest = Counter(each.replies[0] for each in some).most_common(3)
        print(f"{name}: {sum(none.values())} without a verdict {dict(none)}; commonest answers {commonest}")


if __name__ == "__main__":
    main()
