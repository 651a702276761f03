"""Pretrained language models as readers: token trees in, hidden states out."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from prefrep.errors import CheckpointError, ConfigError
from prefrep.nn.attention import Places, block_masks, in_blocks, masks
from prefrep.nn.bundled import resolve
from prefrep.nn.quietly import quietly

log = logging.getLogger(__name__)

ROUNDING = 0.05  # of hidden states in bfloat16 or float16, generously; a wrong distance changes them by more

EXPERT_ROUNDING = 1e-5  # of hidden states in float32; what leaks from another branch is more
CHANCE, JITTER = ("dropout", "pdrop", "layerdrop", "drop_prob"), ("jitter_noise", "input_jitter_noise")  # numbers of modules
OUTPUT_ROUNDING = 0.01  # of logits in bfloat16: the same product on both sides, scaled and capped in another order
# What models multiply the numbers of their output layer with, by the beginning of their type.
FACTORS: dict[str, Callable[[Any], float]] = {
    "granite": lambda config: 1 / config.logits_scaling,
    "hyperclovax": lambda config: config.logits_scaling,
    "cohere": lambda config: config.logit_scale,
    "minicpm3": lambda config: 1 / config.logits_scaling,
    "falcon_h1": lambda config: config.lm_head_multiplier,
}

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (arXiv 2106.09685) through peft; everything else of the backbone is frozen.

    Args:
        rank: Rank of each adapter.
        alpha: Scale; the adapter's output is multiplied by alpha / rank.
        dropout: Share of the numbers an adapter reads that are left out at random in training, in [0, 1).
        targets: Names of the linear layers that get an adapter. Empty: all of them but the language-model head and routers.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"LoRA.rank must be 1 or more, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"LoRA.dropout must be in [0, 1), got {self.dropout}")


class Backbone(nn.Module):
    """A causal language model that reads trees of tokens.

    Args:
        path: `bundled:smollm2-135m`, a local folder, or a hub id.
        dtype: Type of the stored weights. With bf16-mixed training, float32 keeps every small update; bfloat16 is right for a base that
            is frozen or carries LoRA.
        attention: Attention kernel (`nn.attention`). `auto`: the first that honours a tree mask (`supports_trees` tries), of
            flex_attention on CUDA, trees, and the one of `transformers` (eager where attention logits are soft-capped, since sdpa would
            skip the cap).
        lora: Train adapters instead of the weights.
        frozen: Train the head alone.
        gradient_checkpointing: Trade time for memory.
        compile: Fuse what lies between the matrix products of each layer (`torch.compile`, one graph for all layers). The first steps
            wait for a compiler, a minute on two cores; what it made is kept in its own cache.
        quantize: `4bit` stores the base in nf4 (bitsandbytes, CUDA only).
        trust_remote_code: Let the model's folder run its own Python code.
        revision: Branch, tag or commit of a hub id.
        gguf: Name of a GGUF file inside `path` to read the weights from.

    Raises:
        ConfigError: Settings that cannot go together, or not with this model.
        CheckpointError: The model cannot be found or read.
    """

    def __init__(
        self,
        path: str = "bundled:smollm2-135m",
        dtype: DType = "float32",
        attention: Literal["auto", "trees", "flex_attention", "sdpa", "eager", "flash_attention_2"] = "auto",
        lora: LoRA | None = None,
        frozen: bool = False,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        quantize: Literal["none", "4bit"] = "none",
        trust_remote_code: bool = False,
        revision: str | None = None,
        gguf: str | None = None,
    ) -> None:
        super().__init__()
        if frozen and lora is not None:
            raise ConfigError("Backbone: frozen and lora exclude each other; a frozen backbone trains nothing, so drop one of them")
        if quantize == "4bit" and not torch.cuda.is_available():
            raise ConfigError("Backbone.quantize 4bit needs a CUDA device (bitsandbytes); use dtype: bfloat16 with lora here")
        if quantize == "4bit" and lora is None and not frozen:
            raise ConfigError("Backbone.quantize 4bit stores weights that cannot be trained; add lora, or set frozen: true")
        self.path, self.frozen, self.lora = path, frozen, lora
        self.settings: dict[str, Any] = {
            "dtype": dtype, "quantize": quantize, "trust_remote_code": trust_remote_code, "revision": revision, "gguf": gguf
        }  # fmt: skip
        named = "auto" if attention in ("trees", "flex_attention") else attention  # those two are set below, on a model that is there
        model = load_causal(path, dtype, named, quantize, trust_remote_code, revision, gguf)
        for module in model.modules():  # equal texts get equal scores; LoRA brings its own dropout
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            for name, value in list(vars(module).items()):  # OPT, BLOOM and others call the function with a number of their own
                if isinstance(value, float) and (any(part in name for part in CHANCE) or name in JITTER):
                    setattr(module, name, 0.0)
        self._routers = [module for module in model.modules() if hasattr(module, "router_jitter_noise")]
        self._names = frozenset(model.state_dict())  # of the plain model
        if gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if frozen:
            model.requires_grad_(False)
        elif lora is not None:
            from peft import LoraConfig, inject_adapter_in_model

            model.requires_grad_(False)
            output = model.get_output_embeddings()
            every = [
                name
                for name, m in model.named_modules()
                if isinstance(m, nn.Linear | _conv1d()) and m is not output and "Router" not in type(m).__name__  # they return more
            ]
            options = LoraConfig(
                r=lora.rank, lora_alpha=cast(int, lora.alpha), lora_dropout=lora.dropout, target_modules=lora.targets or every, bias="none"
            )
            try:
                inject_adapter_in_model(options, model)
            except ValueError as error:  # such as dropout beside experts, or a layer of Mamba's
                raise ConfigError(
                    f"{path}: peft refuses these adapters ({str(error)[:200]}); change lora.targets or lora.dropout"
                ) from error
            for name, parameter in model.named_parameters():
                if "lora_" in name:  # fp32 masters, whatever the base is stored in
                    parameter.data = parameter.data.float()
        else:
            output, inputs = model.get_output_embeddings(), model.get_input_embeddings()
            if output is not None and output.weight is not inputs.weight:
                output.requires_grad_(False)  # nothing reads the logits unless a regulariser asks (train_output)
        if not frozen and lora is None and dtype != "float32":
            log.warning("full fine-tuning of %s weights loses most small updates; dtype: float32 with bf16-mixed keeps them", dtype)
        # nn.Module.__setattr__ would register a second copy of the parameters under `transformer`; the property below does not.
        self.model = model
        self._trees: dict[str, bool] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._kernels = self._candidates(attention)
        try:
            self._use(self._kernels[0])
        except ValueError as error:
            raise ConfigError(f"{path} has no attention: {attention} in transformers; use auto") from error
        if compile and not torch.cuda.is_available() and shutil.which(os.environ.get("CXX", "c++")) is None:
            log.warning(
                "Backbone.compile needs a C++ compiler (c++, or the one that CXX names), and there is none: layers are not compiled"
            )
        elif compile:
            for layer in model.modules():
                if isinstance(layer, GradientCheckpointingLayer):  # what every decoder layer of transformers is
                    layer.compile(dynamic=True)
        self.train()

    def _candidates(self, attention: str) -> list[str]:
        """Kernels to try, the fastest first."""
        loaded = self.attention
        if attention not in ("auto", "trees", "flex_attention"):
            return [loaded]
        if not type(self.model)._can_set_attn_implementation():
            if attention == "auto":
                return [loaded]
            raise ConfigError(
                f"{self.path} is not built on transformers' attention interface, so attention: {attention} cannot serve it; use auto"
            )
        return ["trees", loaded] if attention == "auto" else [attention]

    def _use(self, attention: str) -> None:
        if attention != self.attention:
            self.model.set_attn_implementation(attention)

    @property
    def transformer(self) -> nn.Module:
        """The model without its language-model head."""
        base = self.model.base_model
        return cast(nn.Module, base if base is not self.model else self.model.model)  # Llama 4 has it under another name

    @property
    def hidden_size(self) -> int:
        """Width H of the hidden states."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "word_embed_proj_dim", config.hidden_size))  # OPT-350m goes back to that of its embeddings

    @property
    def room(self) -> int | None:
        """Tokens that the model can read in one sequence; None: it does not say.

        LongRoPE (Phi-3) measures distances of a whole batch in another way as soon as one sequence in it is longer than the model was first
        trained on; what it is given is the shorter length, so that a score does not depend on what else is read.
        """
        config = self.model.config.get_text_config()
        rope = getattr(config, "rope_parameters", None) or {}
        limits = [getattr(config, "max_position_embeddings", None)]
        for kind in (rope, *(each for each in rope.values() if isinstance(each, dict))):  # layers may have their own
            if kind.get("rope_type") == "longrope" and kind["short_factor"] != kind["long_factor"]:
                limits.append(kind["original_max_position_embeddings"])
        return min((int(limit) for limit in limits if limit is not None), default=None)

    @property
    def attention(self) -> str:
        """Attention kernel in use."""
        return str(self.model.config._attn_implementation)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that belongs to the model, loaded once."""
        if self._tokenizer is None:
            known = {name: self.settings[name] for name in ("trust_remote_code", "revision", "gguf")}
            self._tokenizer = load_tokenizer(self.path, **known)
        return self._tokenizer

    def forward(self, ids: Tensor, positions: Tensor, tree: Tensor, branch: Tensor, padded: bool) -> Tensor:
        """Hidden states after the last norm.

        Args:
            ids: Token ids [R, L].
            positions: Positions [R, L].
            tree: Tree of each token [R, L]; -1: padding.
            branch: Branch of each token [R, L]; 0: shared prefix.
            padded: One sequence a row: an ordinary padding mask is enough.

        Returns:
            Hidden states [R, L, H].
        """
        config = self.model.config.get_text_config()
        if padded:
            return self._read(ids, positions, (tree >= 0).long())
        if self.attention not in ("trees", "flex_attention"):
            numbers = self._compute_dtype(ids.device) if self.attention == "eager" else None
            return self._read(ids, positions, masks(config, tree, branch, positions, numbers=numbers))
        kept = (tree >= 0).flatten().nonzero()[:, 0]

        def flat(x: Tensor) -> Tensor:  # [R, L] -> [1, T]
            return x.flatten()[kept][None]

        if self.attention == "trees":
            numbers = self._compute_dtype(ids.device)
            biases, places = in_blocks(config, flat(tree)[0], flat(branch)[0], flat(positions)[0], numbers)
            found = self._read(flat(ids), flat(positions), biases, places=places)
        else:
            found = self._read(flat(ids), flat(positions), block_masks(config, flat(tree), flat(branch), flat(positions)))
        return found.new_zeros(tree.numel(), found.shape[-1]).index_copy(0, kept, found[0]).view(*tree.shape, -1)

    def _read(self, ids: Tensor, positions: Tensor, mask: Any, **more: Places) -> Tensor:
        with torch.no_grad() if self.frozen else nullcontext():
            result = self.transformer(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **more)
        hidden: Tensor = result.last_hidden_state
        return hidden

    @property
    def output_factor(self) -> float:
        """What the model multiplies the numbers of its output layer with to have logits; 1 for most."""
        config = self.model.config.get_text_config()
        return next((float(factor(config)) for kind, factor in FACTORS.items() if config.model_type.startswith(kind)), 1.0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [.., V] of hidden states [.., H], scaled and soft-capped where the model does so (`check_logits`)."""
        scores: Tensor = self.model.get_output_embeddings()(hidden)
        if (factor := self.output_factor) != 1:
            scores = scores * factor
        config = self.model.config.get_text_config()
        cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
        return scores if cap is None else torch.tanh(scores / cap) * cap

    def check_output(self) -> None:
        """Makes sure that there is a language-model head.

        Raises:
            CheckpointError: The folder has none, such as that of a classifier, and it would be random.
        """
        if self.model.random_output:
            raise CheckpointError(
                f"{self.path}: the weights have no language-model head, which this run reads; name a causal language model"
            )

    def check_logits(self) -> None:
        """Makes sure that there is a language-model head and that `logits` is what the model makes of its hidden states.

        The model is asked about hidden states that are made up, so that none of its layers is run.

        Raises:
            CheckpointError: See `check_output`.
            ConfigError: The model does more between its hidden states and its logits than is known here.
        """
        self.check_output()
        weight = self.model.get_output_embeddings().weight
        sizes = torch.tensor([0.1, 1.0, 10.0, 100.0], dtype=torch.float32, device=weight.device)  # a soft cap shows in the largest
        waves = torch.arange(4 * self.hidden_size, dtype=torch.float32, device=weight.device).sin().view(4, -1)
        hidden = (sizes[:, None] * waves)[None].to(self.model.dtype)
        ids = torch.zeros(1, 4, dtype=torch.long, device=weight.device)
        with torch.no_grad(), ExitStack() as stack:
            for module in {self.transformer, self.model.get_decoder()} - {self.model}:  # OPT passes over the first
                stack.enter_context(patch.object(module, "forward", lambda *_, **__: _Read(last_hidden_state=hidden)))
            try:
                error = self.logits(hidden) - self.model(input_ids=ids, use_cache=False).logits
                same = bool((error.norm(dim=-1) <= OUTPUT_ROUNDING * self.logits(hidden).norm(dim=-1)).all())
            except (TypeError, ValueError, RuntimeError, IndexError) as problem:
                log.info("%s: the output layer cannot be tried (%s)", self.path, problem)
                same = False
        if not same:
            raise ConfigError(
                f"{self.path}: {type(self.model).__name__} does more to its hidden states than its output layer does, so log-probabilities"
                " would be wrong; take another model for GPO, sft or the tokens readout"
            )

    def train_output(self) -> None:
        """Lets the language-model head learn, for what reads its logits; checks that they are right (`check_logits`)."""
        self.check_logits()
        if not self.frozen and self.lora is None:
            self.model.get_output_embeddings().requires_grad_(True)

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, except that a frozen backbone always stays in evaluation mode, and routers that would draw experts too."""
        super().train(mode and not self.frozen)
        for router in self._routers:
            router.train(False)
        return self

    def supports_trees(self) -> bool:
        """Whether the model honours a tree mask, found by trying: a branch must not change when its sibling does.

        A model that ignores the mask, or carries a recurrent state from token to token, lets one branch leak into the next; then
        `layout: padded` is the way. Not one bit may differ, except in the last places where experts share out the tokens. And a branch must
        be what its sequence is when it is read alone, up to rounding: models that count positions by themselves (ALiBi) see siblings as
        distance. Models that are not built on transformers' attention interface have masks of their own (GPT-Neo's windows go by places in
        the row, however long): never.
        """
        if not type(self.model)._can_set_attn_implementation():
            return False
        device = next(self.parameters()).device
        if device.type not in self._trees:
            kernels = self._kernels
            if "trees" in kernels and len(kernels) > 1 and device.type == "cuda":
                kernels = ["flex_attention", *kernels]
            self._trees[device.type] = any(self._honours_trees(kernel, device) for kernel in kernels)
        return self._trees[device.type]

    def _honours_trees(self, attention: str, device: torch.device) -> bool:
        # A prompt of 3 tokens, a response of 48 in two versions, and one of 2: who counts places in the row sees it far from the prompt.
        sizes = torch.tensor([3, 48, 2], device=device)
        branch = torch.arange(3, device=device).repeat_interleave(sizes)[None]
        tree, places = torch.zeros_like(branch), torch.arange(branch.shape[1], device=device)[None]
        positions = places - (branch == 2) * 48
        one = 5 + places % 7
        two = one + (branch == 1)
        mode = self.training
        self.eval()
        try:
            self._use(attention)
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                a, b = (self(ids, positions, tree, branch, padded=False) for ids in (one, two))
                path = (branch != 1)[0]
                alone = self(one[:, path], positions[:, path], tree[:, path], tree[:, path], padded=True)
            a, b = a[:, path], b[:, path]
            # How many tokens an expert gets decides how the sums of its product are ordered.
            rounds = self._has_experts() and a.dtype == torch.float32
            same = torch.equal(a, b) or (rounds and bool((a - b).norm() <= EXPERT_ROUNDING * a.norm()))
            return same and bool((a - alone)[:, 3:].norm() <= ROUNDING * alone[:, 3:].norm())
        except torch.OutOfMemoryError:
            raise  # says nothing about the kernel
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:  # Mamba has no heads
            log.info("%s with attention %s does not take a tree mask (%s)", self.path, attention, error)
            return False
        finally:
            self.train(mode)

    def _has_experts(self) -> bool:
        config = self.model.config.get_text_config()
        return any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))

    def _compute_dtype(self, device: torch.device) -> torch.dtype:
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return cast(torch.dtype, self.model.dtype)

    def merged_state(self) -> dict[str, Tensor]:
        """Weights of the plain language model, with LoRA added in unless it is switched off: what an exported folder holds.

        An output layer that is random is left out, so that whoever reads the folder knows (`check_output`).

        Raises:
            ConfigError: An adapter is of a kind that is not known here.
        """
        from peft.tuners.lora import LoraLayer

        state = {
            name.replace(".base_layer", ""): tensor
            for name, tensor in self.model.state_dict().items()
            if ".lora_" not in name and not (self.model.random_output and name.startswith("lm_head."))
        }
        for owner, adapter in self.model.named_modules():
            if isinstance(adapter, LoraLayer) and not adapter.disable_adapters:
                # Experts are one parameter each for all of a layer, and wrapped one around the other.
                name = f"{owner.replace('.base_layer', '')}.{getattr(adapter, 'parameter_name', 'weight')}"
                delta: Tensor = cast(Any, adapter).get_delta_weight("default")
                state[name] = (state[name].float() + delta.float()).to(state[name].dtype)
        if strange := sorted(state.keys() - self._names):
            raise ConfigError(f"{self.path}: LoRA wraps {strange[0]} in a way that cannot be merged; name other layers in lora.targets")
        return state

    def recipe(self) -> dict[str, Any]:
        """How the backbone was made, as plain data."""
        path = os.path.abspath(os.path.expanduser(self.path)) if os.path.isdir(os.path.expanduser(self.path)) else self.path
        return {"path": path, **self.settings, "attention": self.attention, "lora": asdict(self.lora) if self.lora else None}


class _Read(BaseModelOutputWithPast):
    """What a transformer returns, whatever else its language model asks for."""

    def __getattr__(self, name: str) -> None:
        return None


def _conv1d() -> type[nn.Module]:
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers

    return Conv1D


def load_tokenizer(
    path: str, trust_remote_code: bool = False, revision: str | None = None, gguf: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, from its folder, else from its GGUF file. Raises CheckpointError where there is none."""
    place, common = resolve(path), {"trust_remote_code": trust_remote_code, "revision": revision}
    try:
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, **common)
        except (OSError, ValueError):
            if gguf is None:
                raise
            tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=gguf, **common)
    except (OSError, ValueError) as error:
        raise CheckpointError(_not_found(path, "tokenizer", error)) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_causal(
    path: str,
    dtype: str,
    attention: str,
    quantize: str = "none",
    trust_remote_code: bool = False,
    revision: str | None = None,
    gguf: str | None = None,
) -> Any:
    """A causal language model from a folder or the hub, from safetensors or GGUF, never from pickles.

    Output layers that the weights lack are noted as `random_output` of the model.

    Args:
        path: `bundled:...`, local folder or hub id.
        dtype: Name of the torch type of the weights.
        attention: Kernel, or `auto`: sdpa where the model has it, else eager.
        quantize: `none` or `4bit`.
        trust_remote_code: Passed to `transformers`.
        revision: Passed to `transformers`.
        gguf: GGUF file inside the folder.

    Raises:
        CheckpointError: Nothing usable there.
    """
    place = resolve(path)
    common = {"trust_remote_code": trust_remote_code, "revision": revision}
    try:
        if gguf is None:
            config = AutoConfig.from_pretrained(place, **common)
            capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
            attention = "eager" if attention == "auto" and capped else attention
        # None: transformers takes sdpa where the model has it, else eager.
        options: dict[str, Any] = {"attn_implementation": None if attention == "auto" else attention, "dtype": getattr(torch, dtype)}
        if quantize == "4bit":
            from transformers import BitsAndBytesConfig

            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
            )
        if gguf is not None:
            options["gguf_file"] = gguf
        else:
            options["use_safetensors"] = True
        with quietly():  # missing weights are checked below
            loaded: Any = AutoModelForCausalLM.from_pretrained(place, **common, **options, output_loading_info=True)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise CheckpointError(_not_found(path, "model", error)) from error
    model, info = loaded
    # transformers fills what a file lacks with random numbers; classifiers have no output layer, which few need (`train_output`).
    model.random_output = any(name.startswith("lm_head") for name in info["missing_keys"])
    if gguf is not None:  # the weights are plain numbers by now, which transformers would refuse to save
        model.hf_quantizer = None
        model.is_quantized = False
        for owner, name in ((model, "quantization_method"), (model.config, "quantization_config")):
            if hasattr(owner, name):
                delattr(owner, name)
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith("lm_head")):
        raise CheckpointError(
            f"{path}: the weights lack {len(missing)} tensors ({missing[0]}, ...), which would be random; get the model again"
        )
    return model


def _not_found(path: str, what: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if path.startswith((".", "/", "~")) and not Path(path).expanduser().exists():
        return f"{path}: no such folder, so there is no {what} to load; give a local folder, a hub id or bundled:smollm2-135m"
    return f"{path}: cannot load a {what} ({reason[:200]}); give a local folder with safetensors, a hub id or bundled:smollm2-135m"
