"""What a round of post-training costs: sampling, reference, training, held-out prompts; against the machine's bound and TRL's GRPO.

A round is that of configs/gpo/quickstart.yaml with fewer prompts: its judge, adapters, batch size and share of held-out prompts. Each
contender runs in a process of its own, one after the other; seconds are the clock's, so other work on the machine counts. The bound reads
every distinct token of the round once when sampling (2 FLOP per weight) and every distinct token of a step once when learning (4, of
adapters 6), and uses the output layer at sampled tokens alone, all at the rate of the fastest matrix product of the model's own shapes,
with as many rows as the round samples, and as a step learns from.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import ROOT, Report, arguments
from benchmarks.models import SMOLLM2, TINY, matrices, place
from prefrep.data.trie import Trie

THREE = ("samples", "reference", "training")
GOALS = {"float32": (6.0, 0.4), "bfloat16": (7.0, None)}  # against TRL: speed, memory
SAMPLING = {4: 3.0, 16: 5.0}  # against generate, by K
STEP = 4  # prompts of a training step
SUFFIX = " Answer in one sentence."


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="bundled name or folder")
    it.add_argument(
        "--dtype", nargs="+", choices=tuple(GOALS),
        help="of the weights; bfloat16 trains in bf16-mixed. Default: both, or float32 on a CPU without units for bfloat16",
    )  # fmt: skip
    it.add_argument("--prompts", type=int, default=24, help="prompts of a round, and held-out prompts with two responses each")
    it.add_argument("--responses", type=int, default=4)
    it.add_argument("--new", type=int, default=48, help="most tokens of a response")
    it.add_argument("--without-trl", action="store_true", help="leave the peer out")
    it.add_argument("--child", nargs=2, metavar=("WHO", "DTYPE"), help=argparse.SUPPRESS)
    return it


def main(args: list[str] | None = None) -> None:
    """Measures, prints, writes."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.prompts, options.responses, options.new = TINY, 4, 2, 4
    if options.child:
        who, dtype = options.child
        print("\n" + json.dumps({"prefrep": ours, "trl": trl, "sampling": sampling, "profile": profiled}[who](options, dtype)))
        return
    report = Report("rounds", options)
    peers = not options.without_trl and importlib.util.find_spec("trl") is not None
    options.dtype = options.dtype or ["float32", *(["bfloat16"] if "bf16" in report.machine["device"] else [])]
    rounds, samplings = list[list[Any]](), list[list[Any]]()
    for dtype in options.dtype:
        own = child(options, "prefrep", dtype)
        peer = child(options, "trl", dtype) if peers else None
        rates = child(options, "sampling", dtype)
        kinds = child(options, "profile", dtype)
        report.raw[dtype] = {"prefrep": own, "trl": peer, "sampling": rates, "profile": kinds}
        rounds.append(compare(report, options, dtype, own, peer))
        for k, (rate, plain) in rates.items():
            samplings.append([f"{dtype}, K = {k}", rate / plain, rate, plain])
            if int(k) in SAMPLING:
                report.goal(f"sampling, {dtype}, K = {k}: against generate on K copies", rate / plain, SAMPLING[int(k)], unit="x")
    for dtype in GOALS.keys() - options.dtype:
        report.goal(f"round, {dtype}: sampling, reference and training against TRL's GRPO", None, GOALS[dtype][0], unit="x")
    for what, target in (("sampling against vLLM", 1.0), ("round against TRL with vLLM", 3.0)):
        report.goal(f"H100, 1B model, 512 prompts x 8 responses x 512 tokens: {what}", None, target, unit="x")
    report.table(
        f"{options.prompts} prompts, {options.responses} responses of at most {options.new} tokens; the last seven columns are seconds",
        ["", "speed / TRL's GRPO", "bound / three", "memory / TRL's", *THREE, "the three", "held out", "TRL's GRPO", "bound"],
        rounds,
    )
    report.table("sampling alone, as many rows for each K", ["", "speed / generate", "tokens/s", "generate's tokens/s"], samplings)
    parts = {f"{dtype}, {part}": shares for dtype in options.dtype for part, shares in report.raw[dtype]["profile"].items()}
    names = list(dict.fromkeys(name for shares in parts.values() for name in shares))
    rows = [[name, *(f"{shares.get(name, 0):.0%}" for shares in parts.values())] for name in names]
    report.table("profile of a third of the prompts: shares of CPU time", ["", *parts], rows)
    report.save()


def compare(report: Report, options: argparse.Namespace, dtype: str, own: dict[str, Any], peer: dict[str, Any] | None) -> list[Any]:
    """Record the goals of a round in a precision; return its row of the table."""
    import torch

    from benchmarks.utilisation import rate

    seconds = own["seconds"]
    three = sum(seconds[name] for name in THREE)
    held_out = seconds["held_out"] + seconds["verdicts"]
    lengths = options.prompts * options.responses, own["distinct"][1] * STEP // options.prompts
    found = [rate(getattr(torch, dtype), "cpu", [(rows, *shape) for shape in own["shapes"]]) for rows in lengths]
    bound = sum(needed / flops for needed, (flops, _) in zip(own["flops"], found, strict=True))
    ratio, memory = (peer["seconds"] / three, own["peak"] / peer["peak"]) if peer else (None, None)
    report.note(
        f"{dtype}: {own['tokens']} sampled tokens; {own['distinct'][0]} distinct, {own['distinct'][1]} in {own['steps']} steps; "
        f"peak {own['peak']:.0f} MiB; "
        + "; ".join(f"{flops / 1e9:.0f} GFLOP/s ({shape})" for flops, shape in found)
        + (f". TRL: {peer['tokens']} sampled tokens, {peer['steps']} steps; peak {peer['peak']:.0f} MiB" if peer else "")
    )
    speed, less = GOALS[dtype]
    report.goal(f"round, {dtype}: sampling, reference and training against TRL's GRPO", ratio, speed, unit="x")
    report.goal(f"round, {dtype}: share of the bound", bound / three, 0.6)
    report.goal(f"round, {dtype}: held-out share of all", held_out / (three + held_out + seconds["labels"]), 0.15, at_least=False)
    if less is not None:
        report.goal(f"round, {dtype}: peak memory / TRL's", memory, less, at_least=False, unit="x")
    return [dtype, ratio, bound / three, memory, *(seconds[name] for name in THREE), three, held_out, peer and peer["seconds"], bound]


def child(options: argparse.Namespace, who: str, dtype: str) -> dict[str, Any]:
    """Run one contender in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.rounds", "--model", options.model, "--child", who, dtype]
    for name in ("prompts", "responses", "new"):
        command += [f"--{name}", str(getattr(options, name))]
    began = time.perf_counter()
    done = subprocess.run([*command, *(["--quick"] if options.quick else [])], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"rounds: {who}, {dtype} failed:\n{done.stderr[-3000:]}")
    print(f"{dtype}, {who}: {time.perf_counter() - began:.0f} s with start", flush=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def prompts(count: int, held_out: bool = False) -> list[str]:
    """Return the texts of some prompts."""
    file = ROOT / "prefrep" / "data" / "samples" / f"{'held-out-' if held_out else ''}prompts.txt"
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()][:count]


def peak() -> float:
    """Return the peak memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- contenders


def ours(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Run a round of GPO, and the evaluation of what it led to."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything

    from prefrep import callbacks as parts
    from prefrep.console import quiet
    from prefrep.data.prompts import PromptData
    from prefrep.data.rounds import Rounds
    from prefrep.generation import TransformersSampler
    from prefrep.judges import RuleJudge
    from prefrep.modules import GPO
    from prefrep.modules.base import Schedule
    from prefrep.nn.backbone import Backbone
    from prefrep.nn.lora import LoRA
    from prefrep.nn.objectives import GPOObjective

    quiet()
    seed_everything(0, verbose=False)
    seconds, fill = dict[str, float](), Rounds.fill

    def clocked(self: Rounds, number: int, name: str, *rest: Any, **more: Any) -> None:
        began = time.perf_counter()
        fill(self, number, name, *rest, **more)
        if number == 1 or name not in ("held_out", "verdicts"):  # those of pi_0 are made once per run
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

    class Clock(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            self.began = time.perf_counter()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            seconds["training"] = seconds.get("training", 0.0) + time.perf_counter() - self.began

    Rounds.fill = clocked  # type: ignore[method-assign]
    sampler = partial(TransformersSampler, temperature=1.0, top_p=1.0, max_new_tokens=options.new)
    judge = RuleJudge("prefrep.judges.concise")
    module = GPO(
        partial(Backbone, place(options.model), dtype=dtype, lora=LoRA()),
        partial(GPOObjective, 0.1, select="all"),
        partial(torch.optim.AdamW, lr=3e-4, weight_decay=0.0),
        Schedule("constant_with_warmup", 0.1),
    )
    with TemporaryDirectory() as folder:
        asked, kept = Path(folder) / "prompts.txt", Path(folder) / "held-out.txt"
        asked.write_text("\n".join(prompts(options.prompts)) + "\n")
        kept.write_text("\n".join(prompts(options.prompts, held_out=True)) + "\n")
        data = PromptData(str(asked), str(kept), STEP, suffix=SUFFIX, max_length=options.new + 128, max_prompt_length=128)
        trainer = Trainer(
            accelerator="cpu", precision="bf16-mixed" if dtype == "bfloat16" else "32-true", max_epochs=1, gradient_clip_val=1.0,
            logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
            use_distributed_sampler=False,
            callbacks=[
                parts.SampleResponses(sampler, options.responses, batch_size=options.prompts), parts.UpdateReference(),
                parts.LabelPreferences(judge), parts.HeldOut(judge, sampler, 2, batch_size=options.prompts), Clock(),
            ],
        )  # fmt: skip
        trainer.fit(module, data)
        lines = data.rounds.read(0, "samples")
        asked_ids = sampler().encoder(module.backbone)[0].prompts(p.messages for p in data.round_prompts(0))
    written = [[np.append(ids, own) for own in lines[row]["ids"]] for row, ids in enumerate(asked_ids)]
    tokens = sum(len(ids) for line in lines.values() for ids in line["ids"])
    read = [distinct(written, len(written)), distinct(written, STEP)]
    body, output = module.backbone.transformer, module.backbone.model.get_output_embeddings().weight
    once = [matrices(body) * count + output.numel() * tokens for count in read]
    linear = [m.weight for n, m in body.named_modules() if isinstance(m, torch.nn.Linear) and "lora_" not in n]
    return {
        "seconds": seconds, "tokens": tokens, "distinct": read, "steps": trainer.global_step, "peak": peak(),
        "flops": [2 * once[0], 4 * once[1] + 6 * matrices(body, adapters=True) * read[1]],
        "shapes": sorted({(weight.shape[1], weight.shape[0]) for weight in (*linear, output)}),
    }  # fmt: skip


def distinct(answers: Sequence[Sequence[NDArray[np.int32]]], together: int) -> int:
    """Return the number of distinct tokens of prompts with their answers [N, K], of which so many prompts are read together."""
    groups = (answers[at : at + together] for at in range(0, len(answers), together))
    return sum(Trie(ids for own in group for ids in own).size for group in groups)


def sampling(options: argparse.Namespace, dtype: str) -> dict[str, tuple[float, float]]:
    """Return tokens a second of our sampler and of `generate` by K, on the prompts of the round; responses end where they end."""
    from benchmarks.sampling import plain
    from prefrep.generation import TransformersSampler
    from prefrep.nn.backbone import Backbone
    from prefrep.records import Message

    backbone = Backbone(place(options.model), dtype=dtype, frozen=True).eval()
    sampler = TransformersSampler(1.0, 1.0, options.new)
    ends = sampler.encoder(backbone)[1]
    found = {}
    for k in SAMPLING:
        asked = [(Message("user", text + SUFFIX),) for text in prompts(max(1, options.prompts * options.responses // k))]

        def own(count: int, k: int = k, asked: Sequence[Any] = asked) -> int:
            return sum(len(each.ids or ()) for row in sampler.sample(backbone, asked[:count], k, range(count)) for each in row)

        def theirs(count: int, k: int = k, asked: Sequence[Any] = asked) -> int:
            written = plain(backbone, sampler, asked[:count], k, options.new, ends).tolist()
            return sum(next((at + 1 for at, token in enumerate(row) if token in ends), len(row)) for row in written)

        rates = []
        for run in (own, theirs):
            run(1)
            began = time.perf_counter()
            tokens = run(len(asked))
            rates.append(tokens / (time.perf_counter() - began))
        found[str(k)] = (rates[0], rates[1])
    return found


def profiled(options: argparse.Namespace, dtype: str) -> dict[str, dict[str, float]]:
    """Return shares of CPU time by kind of operator, of sampling and of training, in a round of a third of the prompts."""
    from bisect import bisect

    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    from benchmarks.utilisation import kind_of
    from prefrep.data.rounds import Rounds
    from prefrep.generation import continuous
    from prefrep.modules import GPO

    found: dict[str, dict[str, float]] = {}

    def under(part: str, work: Any) -> Any:
        def run(*args: Any, **more: Any) -> Any:
            if part in found or (part == "samples" and args[2] != part):
                return work(*args, **more)
            with profile(activities=[ProfilerActivity.CPU]) as recorded:
                result = work(*args, **more)
            found[part] = shares(list(recorded.events() or ()))
            return result

        return run

    def shares(events: list[Any]) -> dict[str, float]:
        drawing = sorted((event.time_range.start, event.time_range.end) for event in events if event.name == "drawing")
        starts, by = [start for start, _ in drawing], dict[str, float]()
        for event in events:
            at = bisect(starts, event.time_range.start) - 1
            kind = "drawing" if at >= 0 and event.time_range.start < drawing[at][1] else kind_of(event.name)
            by[kind] = by.get(kind, 0.0) + event.self_cpu_time_total
        return {kind: own / sum(by.values()) for kind, own in sorted(by.items(), key=lambda item: -item[1])}

    def drawn(*args: Any, **more: Any) -> Any:
        with record_function("drawing"):
            return torch_draw(*args, **more)

    torch_draw, continuous.draw = continuous.draw, drawn  # type: ignore[assignment]
    Rounds.fill = under("samples", Rounds.fill)  # type: ignore[method-assign]
    GPO.optimizer_step = under("training", GPO.optimizer_step)  # type: ignore[method-assign]
    options.prompts = max(STEP, options.prompts // 3)
    torch.manual_seed(0)
    ours(options, dtype)
    return found


def trl(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """Run TRL's GRPO on the same prompts once, with as many responses, steps and adapters, and a KL term."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from prefrep.judges.rules import concise
    from prefrep.nn.bundled import resolve

    tokens, folder_of_model = 0, str(resolve(place(options.model)))

    def reward(prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        nonlocal tokens
        tokens += sum(map(len, completion_ids))
        texts = [each[0]["content"] for each in completions]
        groups = [texts[i - i % options.responses : i - i % options.responses + options.responses] for i in range(len(texts))]
        return [sum(concise("", text, other) for other in group) / len(group) for text, group in zip(texts, groups, strict=True)]

    import torch

    model = AutoModelForCausalLM.from_pretrained(folder_of_model, dtype=getattr(torch, dtype))
    rows = [{"prompt": [{"role": "user", "content": text + SUFFIX}]} for text in prompts(options.prompts)]
    whole = len(rows) * options.responses
    with TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder, per_device_train_batch_size=STEP * options.responses, generation_batch_size=whole, num_generations=options.responses,
            max_completion_length=options.new, beta=0.1, learning_rate=3e-4, num_train_epochs=1, bf16=dtype == "bfloat16", use_cpu=True,
            gradient_checkpointing=False, report_to=[], save_strategy="no", disable_tqdm=True, temperature=1.0,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model, reward, config, train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder_of_model),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )  # fmt: skip
        seconds = float(trainer.train().metrics["train_runtime"])  # without its set-up, as ours
    return {"seconds": seconds, "tokens": tokens, "steps": trainer.state.global_step, "peak": peak()}


if __name__ == "__main__":
    main()
