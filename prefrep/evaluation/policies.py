"""Policies under evaluation: how their answers are generated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefrep.errors import ConfigError, require_at_least

if TYPE_CHECKING:
    from prefrep.generation import TransformersSampler, VLLMSampler
    from prefrep.nn.backbone import Backbone


class Answering:
    """How policies answer prompts.

    Args:
        max_new_tokens: Longest answer in tokens.
        batch_size: Prompts answered at a time.
        seed: Seed of the sampling.
        template: How prompts are rendered.
        engine: Sampling engine; vllm: extra `vllm`, CUDA only.
        device: cpu, cuda, ...; auto: cuda where there is one.
        dtype: Type of the weights; default: as stored.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        max_new_tokens: int = 1024,
        batch_size: int = 8,
        seed: int = 0,
        template: Literal["auto", "chat", "plain"] = "auto",
        engine: Literal["transformers", "vllm"] = "transformers",
        device: str = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    ) -> None:
        require_at_least("--batch-size", batch_size, 1)
        require_at_least("--max-new-tokens", max_new_tokens, 1)
        require_at_least("--seed", seed, 0)
        self.max_new_tokens, self.batch_size, self.seed, self.template = max_new_tokens, batch_size, seed, template
        self.engine, self.device, self.dtype = engine, device, dtype

    def sampler(self, temperature: float, top_p: float) -> TransformersSampler | VLLMSampler:
        """Return the engine. Raises ConfigError: a value is out of range, or vLLM is not installed."""
        from prefrep.generation import TransformersSampler, VLLMSampler

        kind = VLLMSampler if self.engine == "vllm" else TransformersSampler
        return kind(temperature, top_p, self.max_new_tokens, self.template)

    def describe(self) -> dict[str, Any]:
        """Return what can move an answer, but the seed and the batch size, which `generation` keeps itself."""
        return {"max_new_tokens": self.max_new_tokens, "template": self.template, "engine": self.engine}

    def load(self, path: str) -> tuple[Backbone, dict[str, Any]]:
        """Load a language model.

        Args:
            path: Folder, hub id or bundled:NAME.

        Returns:
            The model, and what tells it from others.

        Raises:
            ConfigError: The folder is an adapter without its base.
            CheckpointError: The model cannot be read, or has no output layer.
        """
        import torch

        from prefrep.io.fingerprint import fingerprint
        from prefrep.io.shards import read_config, stored_dtype
        from prefrep.nn.backbone import Backbone

        if (Path(path) / "adapter_config.json").exists() and not (Path(path) / "config.json").exists():
            raise ConfigError(f"{path}: an adapter without its base; export it with ExportPolicy.weights: merged, or merge it with peft")
        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        dtype: Any = self.dtype or stored_dtype(read_config(path, None))
        backbone = Backbone(path, dtype=dtype, frozen=True).to(device)
        backbone.check_output()
        return backbone, {"path": path, "dtype": dtype, "fingerprint": fingerprint(path) if Path(path).is_dir() else None}

    def alpaca(
        self, path: str, data: str, out: Path, temperature: float, top_p: float, *, name: str | None = None, seed: int | None = None,
        distinct: bool = False, restart: bool = False,
    ) -> tuple[Path, int]:  # fmt: skip
        """Answer instructions into AlpacaEval's `model_outputs.json`, resuming an interrupted run.

        Args:
            path: The language model.
            data: Rows with instructions.
            out: Output folder.
            temperature: Sampling temperature.
            top_p: Nucleus of the sampling.
            name: Name of the model in the file; default: the last part of its path.
            seed: Seed of the sampling, instead of the one of this object.
            distinct: Answer an instruction that occurs again only once.
            restart: Discard the answers that the folder holds.

        Returns:
            The file, and the number of its answers.

        Raises:
            PrefrepError: Data or model cannot be read.
        """
        from prefrep.evaluation import generation

        sampler = self.sampler(temperature, top_p)
        instructions = generation.read_instructions(data)
        if distinct:
            instructions = list({row["instruction"]: row for row in instructions}.values())
        backbone, model = self.load(path)
        identity = {"model": model, "temperature": temperature, "top_p": top_p, **self.describe()}
        file = generation.alpaca_eval(
            backbone, sampler, instructions, out, name or policy_name(path), identity, batch=self.batch_size,
            seed=self.seed if seed is None else seed, restart=restart,
        )  # fmt: skip
        return file, len(instructions)


def policy_name(path: str) -> str:
    """Return the last part of a folder, hub id or bundled name."""
    return path.rstrip("/").replace("bundled:", "").rsplit("/", 1)[-1]
