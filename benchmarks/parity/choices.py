"""Choices on rows of RewardBench by its own functions, beside those of `prefrep eval rewardbench`: a small random model of each kind.

    python -m benchmarks.parity.choices CHECKOUT ROWS [--gpm CHECKOUT] [--limit BYTES] [--only KIND ...]

CHECKOUT is a checkout of allenai/reward-bench (read at 05a9005; Apache-2.0), whose pipelines and `DPOInference` run on the CPU. ROWS is
JSONL in RewardBench's schema (id, subset, prompt, chosen, rejected). `--gpm` is a checkout of general-preference/general-preference-model
(a376d95), whose pipeline and rule are how the paper evaluates GPM; RewardBench has none. Nothing is fetched.

The tokenizers write bytes, so rows above `--limit` bytes, which each side would truncate in its own way, are left out. Some rules differ on
purpose, and the lines of these kinds show how much that changes:

* PairRM: RewardBench asks about one turn in the form of several turns; LLM-Blender and prefrep ask in that of one.
* SteamSHP: RewardBench shuffles answers without a seed and keeps the verdict of that order; here it keeps the order given.
* `run_dpo`: RewardBench puts BOS and EOS around what the template writes, which may have written them, and counts the header of the answer
  among its tokens. Of a template that writes neither, ratios and sums are the same, but for white space at the end of an answer, which
  prefrep leaves out where no token of the template follows it; averages and norms also hold the header.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding, T5ForConditionalGeneration

from benchmarks.parity.choices_models import BARE, ROWS, encoder, family, llama_classifier, official, policy, t5
from benchmarks.parity.families import module, original

Row = dict[str, str]
Differences = list[float]  # chosen minus rejected, one for each row; the sign is the choice

BATCH = 8


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """RewardBench and GPM's scripts move inputs to CUDA by name."""
    tensor, batch = torch.Tensor.to, BatchEncoding.to

    def stays(move: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, *where, **more: self if where == ("cuda",) else move(self, *where, **more)

    with mock.patch.object(torch.Tensor, "to", stays(tensor)), mock.patch.object(BatchEncoding, "to", stays(batch)), torch.no_grad():
        yield


def function(file: Path, name: str) -> Callable[..., Any]:
    """Return one function of a file whose imports are not at hand."""
    found = next(node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == name)
    for argument in [*found.args.args, found]:
        setattr(argument, "returns" if argument is found else "annotation", None)
    space: dict[str, Any] = {}
    exec(compile(ast.Module([found], []), str(file), "exec"), space)
    made: Callable[..., Any] = space[name]
    return made


def by_path(file: Path) -> ModuleType:
    """Import a file."""
    spec = importlib.util.spec_from_file_location(f"authors_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Return the rows, some at a time."""
    for start in range(0, len(rows), BATCH):
        yield list(rows[start : start + BATCH])


def formatted(checkout: Path, folder: Path, rows: Sequence[Row]) -> tuple[Any, list[Row]]:
    """Return the tokenizer as `run_rm.py` sets it, and rows as RewardBench renders them."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.truncation_side = "left"
    render = function(checkout / "rewardbench" / "utils.py", "prepare_dialogue_from_tokenizer")
    return tokenizer, [render(dict(row), tokenizer) for row in rows]


def turns(row: Row, side: str) -> list[dict[str, str]]:
    """Return the conversation that pair pipelines take."""
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]


# ---- RewardBench's side


def classifier(checkout: Path, folder: Path, rows: Sequence[Row]) -> Differences:
    """`RewardBenchPipeline`, on a classifier of transformers or on a class of RewardBench's."""
    tokenizer, texts = formatted(checkout, folder, rows)
    if folder.name in ("qrm", "ldl"):
        model: Any = original(checkout, folder.name, folder)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    ask: Any = module(checkout, "pipeline").RewardBenchPipeline("text-classification", model, tokenizer)
    found: Differences = []
    for some in batches(texts):
        sides = [ask([row[f"text_{side}"] for row in some], max_length=2048) for side in ("chosen", "rejected")]
        found += (sides[0] - sides[1]).flatten().tolist()
    return found


def pairrm(checkout: Path, folder: Path, rows: Sequence[Row], code: Any = None) -> Differences:
    """`PairRMPipeline`, which adds the two orders; of RewardBench's module, or of `code` in its place."""
    code = code or module(checkout, "pairrm")
    ask = code.PairRMPipeline("", original(checkout, "pairrm", folder), AutoTokenizer.from_pretrained(folder))
    found: Differences = []
    for some in batches(rows):
        found += ask(*([turns(row, side) for row in some] for side in ("chosen", "rejected")), output_logits=True)
    return found


def pairrm_of_one_turn(checkout: Path, folder: Path, rows: Sequence[Row]) -> Differences:
    """The same pipeline, whose texts are put as LLM-Blender has those of one turn."""
    code: Any = module(checkout, "pairrm")
    plain = code.tokenize_pair

    def single(tokenizer: Any, first: Any, second: Any, **options: Any) -> Any:
        return plain(tokenizer, [c[0]["content"] for c in first], *([c[1]["content"] for c in each] for each in (first, second)))

    code.tokenize_conv_pair = single
    return pairrm(checkout, folder, rows, code)


def steamshp(checkout: Path, folder: Path, rows: Sequence[Row]) -> Differences:
    """`SHPPipeline`, whose verdicts are 1 or 0; the order is the one given."""
    model: Any = T5ForConditionalGeneration.from_pretrained(folder)
    ask = module(checkout, "shp").SHPPipeline("", model, AutoTokenizer.from_pretrained(folder))
    found: Differences = []
    with mock.patch.object(random, "shuffle", lambda answers: None):
        for some in batches(rows):
            verdicts = ask(*([turns(row, side) for row in some] for side in ("chosen", "rejected")), max_length=512)
            found += (verdicts * 2 - 1).tolist()
    return found


def run_dpo(form: str) -> Callable[[Path, Path, Sequence[Row]], Differences]:
    """`DPOInference` of a policy, with the reference beside it, or in a form without one."""

    def ask(checkout: Path, folder: Path, rows: Sequence[Row]) -> Differences:
        tokenizer, texts = formatted(checkout, folder, rows)
        if tokenizer.bos_token is None:
            tokenizer.bos_token_id = tokenizer.eos_token_id
        policy: Any = AutoModelForCausalLM.from_pretrained(folder)
        reference: Any = AutoModelForCausalLM.from_pretrained(folder.parent / "reference") if form == "ratio" else None
        place: Any = mock.Mock(device="cpu")
        norm = {"average": "avg"}.get(form, form)
        judge = by_path(checkout / "rewardbench" / "dpo.py").DPOInference(policy, reference, tokenizer, place, norm)
        found: Differences = []
        for row in texts:
            one = judge.tokenize_row(row)
            batch = {name: torch.tensor([value]) for name, value in one.items()}
            chosen, rejected = judge.inference_step(batch, ref_free=reference is None)
            found += (chosen - rejected).tolist()
        return found

    return ask


def gpm(checkout: Path, folder: Path, rows: Sequence[Row]) -> Differences:
    """The pipeline and the rule of GPM's own `run_rm_rewardbench.py`; its model file wants DeepSpeed, which only training needs."""
    absent = {name: ModuleType(name) for name in ("deepspeed", "transformers.deepspeed", "general_preference.utils.logging")}
    absent["transformers.deepspeed"].HfDeepSpeedConfig = None  # type: ignore[attr-defined]
    absent["general_preference.utils.logging"].init_logger = lambda name: None  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, absent):
        made: Any = by_path(checkout / "general_preference" / "models" / "rw_model_general_preference.py")
    dim = 4
    model: Any = made.get_reward_model(str(folder), bf16=False, is_general_preference=True, value_head_dim=dim)
    rules: Any = by_path(checkout / "rewardbench_eval" / "rewardbench_utils.py")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left", truncation_side="right")
    ask = rules.CustomLeftPadRewardBenchPipeline("", model, tokenizer)
    found: Differences = []
    for some in batches(rows):
        chosen, rejected = (ask([turns(row, side) for row in some]) for side in ("chosen", "rejected"))
        found += rules.generate_high_dim_result(dim, chosen, rejected).tolist()
    return found


def ours(folder: Path, rows: Path, **options: Any) -> Differences:
    """Return the log-odds that `prefrep eval rewardbench` writes, in the order of the rows."""
    from prefrep.programs.rewardbench import rewardbench

    export = folder.with_name(f"{folder.name}-export")
    out = rows.with_name(f"out-{folder.name}-{'-'.join(map(str, options.values())).replace('/', '_')}")
    rewardbench(model=str(export if export.exists() else folder), data=str(rows), out=str(out), bootstrap=1, device="cpu", **options)
    return [float(json.loads(line)["score"]) for line in (out / "scores.jsonl").read_text().splitlines()]


Theirs = Callable[[Path, Path, Sequence[Row]], Differences]
# What is written, by whom it is judged, and options of `prefrep eval rewardbench`; names of folders are those of the layouts.
KINDS: dict[str, tuple[str, Callable[[Path], None], Theirs, dict[str, Any]]] = {
    "sequence classifier": ("llama", llama_classifier, classifier, {}),
    "encoder: DeBERTa": ("deberta-v2", encoder, classifier, {}),
    "encoder: ModernBERT": ("modernbert", encoder, classifier, {}),
    "gated objectives: QRM": ("qrm", family, classifier, {}),
    "PairRM": ("pairrm", family, pairrm_of_one_turn, {}),
    "PairRM, RewardBench's form": ("pairrm", family, pairrm, {}),
    "SteamSHP": ("t5", t5, steamshp, {"as_": "steamshp", "orders": "first"}),
    "policy / reference": ("policy", policy(BARE), run_dpo("ratio"), {"reference": "reference"}),
    "policy, sum": ("policy", policy(BARE), run_dpo("sum"), {"implicit": "sum"}),
    "policy, average": ("policy", policy(BARE), run_dpo("average"), {"implicit": "average"}),
    "policy, norm": ("policy", policy(BARE), run_dpo("norm"), {"implicit": "norm"}),
    "policy / reference, ChatML": ("chatml", policy(None), run_dpo("ratio"), {"reference": "reference"}),
    "GPM": ("gpm", official, gpm, {}),
}


def main() -> None:
    """Print how many rows get the same choice, and the largest difference of differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--gpm", type=Path)
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    args = parser.parse_args()
    read = [json.loads(line) for line in args.rows.read_text().splitlines()]
    print(f"{'':28} same choice     chosen wins    largest difference")
    for kind in args.only:
        if kind != "GPM" or args.gpm is not None:
            one(kind, args, read)


def one(kind: str, args: argparse.Namespace, read: list[Row]) -> None:
    """Print the line of a kind."""
    name, write, theirs, options = KINDS[kind]
    limit = min(args.limit, 512) if name == "t5" else args.limit
    both = name in ("t5", "pairrm")  # one text holds both answers
    sizes = [[len(row[side].encode()) for side in ("prompt", "chosen", "rejected")] for row in read]
    lengths = [x + (a + b if both else max(a, b)) for x, a, b in sizes]
    rows = [row for row, length in zip(read, lengths, strict=True) if length < limit - 100]  # templates need some
    with TemporaryDirectory() as place:
        folder, data = Path(place) / name, Path(place) / ROWS
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        write(folder)
        more = options | ({"reference": str(folder.parent / "reference")} if "reference" in options else {})
        with on_the_cpu():
            expected = theirs(args.gpm if kind == "GPM" else args.checkout, folder, rows)
        found = ours(folder, data, **more)
    same = sum((a > 0) == (b > 0) for a, b in zip(expected, found, strict=True))
    scale = {"PairRM": 2, "PairRM, RewardBench's form": 2, "GPM": 0.1}.get(kind, 1)  # a sum of two orders; tau
    apart, largest = [abs(a - scale * b) for a, b in zip(expected, found, strict=True)], max(map(abs, expected))
    near = sum(each <= 1e-5 * largest for each in apart)
    far = "verdicts only" if name == "t5" else f"{max(apart):.1e} of {largest:.3g}; {near} rows within 1e-5 of that"
    print(f"{kind:28} {same:4} of {len(rows):4}   {sum(b > 0 for b in found):4}           {far}", flush=True)


if __name__ == "__main__":
    main()
