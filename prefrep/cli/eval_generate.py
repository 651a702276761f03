"""`bin/eval generate`: a model answers the prompts of a benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefrep.generation import TransformersSampler, VLLMSampler
    from prefrep.nn.backbone import Backbone


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = commands.add_parser(
        "generate",
        help="answers of a policy, in the files that AlpacaEval and MT-Bench read",
        description="Answers the prompts of a benchmark: DIR/model_outputs.json (alpaca_eval), DIR/model_answer/NAME.jsonl (mt_bench). "
        "Later turns of mt_bench get shorter answers than --max-new-tokens where the model's context leaves less room.",
    )
    parser.add_argument("--model", required=True, metavar="M", help="folder of a language model, hub id or bundled:...")
    parser.add_argument("--benchmark", required=True, choices=["alpaca_eval", "mt_bench"], help="which prompts, and which files")
    parser.add_argument(
        "--data", required=True, metavar="FILE|HUB", help="alpaca_eval: rows with instruction; mt_bench: FastChat's question.jsonl"
    )
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="where answers go; an interrupted run is carried on")
    parser.add_argument("--restart", action="store_true", help="throw away the answers that --out holds")
    parser.add_argument("--name", help="the model's name in the files (default: the last part of its path)")
    parser.add_argument(
        "--temperature",
        type=float,
        help="0: the likeliest answer (default: 0.7; mt_bench: FastChat's, by category)",
    )
    parser.add_argument("--top-p", type=float, help="nucleus of the draws (default: 0.9; mt_bench: 1, as FastChat)")
    add_generation(parser)
    parser.set_defaults(run=_generate, parser=parser)


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Adds how a language model runs."""
    group = parser.add_argument_group("how answers are drawn")
    group.add_argument("--max-new-tokens", type=int, default=1024, help="longest answer (default: 1024)")
    group.add_argument("--batch-size", type=int, default=8, help="prompts answered at a time (default: 8)")
    group.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    group.add_argument("--template", choices=["auto", "chat", "plain"], default="auto", help="how prompts are rendered (default: auto)")
    group.add_argument("--engine", choices=["transformers", "vllm"], default="transformers", help="vllm: extra `vllm`, CUDA only")
    group.add_argument("--device", default="auto", help="cpu, cuda, ... (default: cuda where there is one)")
    group.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights (default: as stored)")


def model_name(path: str) -> str:
    """The last part of a folder, hub id or bundled name."""
    return path.rstrip("/").replace("bundled:", "").rsplit("/", 1)[-1]


def load_policy(path: str, given: argparse.Namespace) -> tuple[Backbone, dict[str, Any]]:
    """A language model ready to answer, and what tells it from others."""
    import torch

    from prefrep.cli.main import quiet
    from prefrep.errors import ConfigError
    from prefrep.evaluation.layout import fingerprint
    from prefrep.io.shards import read_config, stored_dtype
    from prefrep.nn.backbone import Backbone

    quiet()
    if (Path(path) / "adapter_config.json").exists() and not (Path(path) / "config.json").exists():
        raise ConfigError(f"{path}: an adapter without its base; export it with ExportPolicy.weights: merged, or merge it with peft")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if given.device == "auto" else given.device
    dtype: Any = given.dtype or stored_dtype(read_config(path, None))
    backbone = Backbone(path, dtype=dtype, frozen=True).to(device)
    backbone.check_output()
    return backbone, {"path": path, "dtype": dtype, "fingerprint": fingerprint(path) if Path(path).is_dir() else None}


def make_sampler(given: argparse.Namespace, temperature: float, top_p: float) -> TransformersSampler | VLLMSampler:
    """The engine that was asked for. Raises ConfigError: a value is out of its range, or vLLM is not there."""
    from prefrep.generation import TransformersSampler, VLLMSampler

    kind = VLLMSampler if given.engine == "vllm" else TransformersSampler
    return kind(temperature, top_p, given.max_new_tokens, given.template)


def check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Ends the program where numbers make no sense: before anything is loaded."""
    for name in ("batch_size", "max_new_tokens"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if given.seed < 0:
        parser.error("--seed must be 0 or more")


def _generate(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    check(parser, given)
    from prefrep.evaluation import generation

    alpaca = given.benchmark == "alpaca_eval"
    top_p = given.top_p if given.top_p is not None else 0.9 if alpaca else 1.0
    temperature = given.temperature if given.temperature is not None or not alpaca else 0.7
    sampler = make_sampler(given, 0.0 if temperature is None else temperature, top_p)
    questions = generation.read_instructions(given.data) if alpaca else generation.read_questions(given.data)
    backbone, model = load_policy(given.model, given)
    name = given.name or model_name(given.model)
    identity = {"model": model, "top_p": top_p, "max_new_tokens": given.max_new_tokens, "template": given.template, "engine": given.engine}
    options: dict[str, Any] = {"batch": given.batch_size, "seed": given.seed, "restart": given.restart}
    if alpaca:
        identity["temperature"] = temperature
        path = generation.alpaca_eval(backbone, sampler, questions, given.out, name, identity, **options)
    else:
        path = generation.mt_bench(
            backbone,
            sampler.at,
            questions,
            given.out,
            name,
            identity,
            temperature=temperature,
            **options,
        )
    print(f"written: {path}, {len(questions)} answers of {name}")
    return 0
