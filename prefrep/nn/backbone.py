"""Pretrained language models as backbones: from token trees to hidden states."""

from __future__ import annotations

import copy
import logging
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from prefrep.errors import CheckpointError, ConfigError
from prefrep.nn import bidirectional, families, kernels, probes
from prefrep.nn.attention import FLEX, SPARSE, TREES
from prefrep.nn.bidirectional import Pooling
from prefrep.nn.compiling import compile_layers, keep_versions
from prefrep.nn.loading import DType, load_causal, load_tokenizer
from prefrep.nn.lora import LoRA, add_adapters, merged_state, twin
from prefrep.nn.masks import BlockIndex, dense_masks, flex_masks, tree_biases

log = logging.getLogger(__name__)


class Backbone(nn.Module):
    """A language model that reads token trees, or rows of one sequence each if it is an encoder (`nn.bidirectional`).

    Args:
        path: `bundled:smollm2-135m`, a local folder, or a hub id.
        dtype: Dtype of the stored weights. With bf16-mixed training, float32 keeps every small update; bfloat16 suits a base that is
            frozen or carries LoRA.
        attention: Attention kernel. `auto`: the first kernel that passes `supports_trees`, of flex_attention on CUDA, trees
            (`nn.attention`), and the default of `transformers` (eager for soft-capped attention, since sdpa would skip the cap).
        lora: Train adapters instead of the weights.
        frozen: Train the head alone.
        gradient_checkpointing: Trade time for memory.
        compile: Fuse the operations between the matrix products of each layer (`torch.compile`, one graph for all layers). The first
            steps wait for the compiler, about a minute on two cores; its own cache keeps the result.
        quantize: `4bit` stores the base in nf4 (bitsandbytes, CUDA only).
        trust_remote_code: Run Python code from the folder of the model.
        revision: Branch, tag or commit of a hub id.
        gguf: Name of a GGUF file inside `path` to read the weights from.
        pooling: What is read of a sequence: the `last` token, the `first` one, the `mean`, the `mask` token of an instruction
            (`data.instruction`), the `marked` tokens, or the state from which the `decoder` of a T5 model predicts its first token.
            `auto`: last, of encoders first, of T5's encoder mean. Only last shares prefixes.
        marks: Ids of the marked tokens.
        prefix: Names of tensors in the checkpoint, as regular expressions, and what they stand for.

    Raises:
        ConfigError: Settings exclude each other, or the model does not support them.
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
        pooling: Pooling = "auto",
        marks: list[int] | None = None,
        prefix: dict[str, str] | None = None,
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
        initial = "auto" if attention in SPARSE else attention  # `use` sets those two on the loaded model
        model, self._random_output = load_causal(path, dtype, initial, quantize, trust_remote_code, revision, gguf, pooling, prefix)
        self.both_ways = bidirectional.reads_both_ways(model.config)
        self.pooling, self.marks = bidirectional.resolved(pooling, marks, model.config), marks
        self.settings |= {"pooling": self.pooling, "marks": marks}
        self._routers = families.remove_dropout(model)
        self._names = frozenset(model.state_dict())  # of the plain model
        if gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        output, inputs = model.get_output_embeddings(), model.get_input_embeddings()
        if frozen:
            model.requires_grad_(False)
        elif lora is not None:
            add_adapters(model, lora, path)
        elif output is not None and output.weight is not inputs.weight:
            output.requires_grad_(False)  # only a regulariser reads logits, and it calls train_output
        if not frozen and lora is None and dtype != "float32":
            log.warning("full fine-tuning of %s weights rounds away most small updates; use dtype: float32 with bf16-mixed", dtype)
        # nn.Module.__setattr__ would register the parameters a second time under `transformer`; a name and a property do not.
        self.model = model
        whole = self.both_ways or inputs is None
        self._body = "" if whole else next(name for name, part in model.named_children() if inputs in set(part.modules()))
        self._trees: dict[str, str | None] = {}  # by type of device: the kernel that was found to respect trees; None: there is none
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._kernels = kernels.candidates(model, path, attention, self.both_ways)
        try:
            self.use(self._kernels[0])
        except ValueError as error:
            raise ConfigError(f"{path}: transformers has no attention: {attention} for this model; use auto") from error
        if compile:
            compile_layers(model)
        self.train()

    def use(self, attention: str) -> None:
        """Switch to another attention kernel. Raises ValueError: transformers has none of that name for this model."""
        if attention == FLEX:
            keep_versions()
        if attention != self.attention:
            self.model.set_attn_implementation(attention)

    @property
    def transformer(self) -> nn.Module:
        """The model without its output layer: the part that holds the input embeddings; of an encoder, all of it."""
        return cast(nn.Module, getattr(self.model, self._body) if self._body else self.model)

    @property
    def hidden_size(self) -> int:
        """Width H of what is read of a sequence."""
        return families.hidden_size(self._config) * len(self.marks or (0,))

    @property
    def room(self) -> int | None:
        """Longest sequence that the model can read, in tokens; None if it does not say."""
        return families.max_length(self._config)

    @property
    def attention(self) -> str:
        """Attention kernel in use."""
        return str(self.model.config._attn_implementation)

    def row_capacity(self, wanted: int) -> int:
        """Return how many tokens a row of trees may have: `wanted`, and no limit once `supports_trees` has found a kernel of `SPARSE`."""
        return sys.maxsize if any(self._trees.values()) and self.attention in SPARSE else wanted

    @property
    def _config(self) -> Any:
        return self.model.config.get_text_config()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the model, loaded once."""
        if self._tokenizer is None:
            known = {name: self.settings[name] for name in ("trust_remote_code", "revision", "gguf")}
            self._tokenizer = load_tokenizer(self.path, **known)
            if self.both_ways and self._tokenizer.eos_token is None:  # BERT's separators end texts as others' EOS does
                self._tokenizer.eos_token, self._tokenizer.bos_token = self._tokenizer.sep_token, self._tokenizer.cls_token
        return self._tokenizer

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode, except on a frozen backbone and on routers that would sample experts."""
        super().train(mode and not self.frozen)
        for router in self._routers:
            router.train(False)
        return self

    # ---- hidden states

    def forward(self, ids: Tensor, positions: Tensor, until: Tensor, padded: bool) -> Tensor:
        """Return the hidden states after the last norm.

        Args:
            ids: Token ids [R, L].
            positions: Positions [R, L].
            until: Place in the row just past the last token that sees each token [R, L]; 0: padding.
            padded: Whether each row holds one sequence, so that a padding mask suffices.

        Returns:
            Hidden states [R, L, H]; what `pooling` reads of a row stands at each of its tokens.
        """
        # Of a padding mask, transformers' flex_attention compiles a block mask for every shape. Only a kernel that has been probed may read
        # sequences in one row instead; the probe itself compares that row with a sequence alone.
        if padded and not (self.attention == FLEX and self._trees.get(ids.device.type)):
            mask = (until > 0).long()
            hidden = self._rows(ids, mask) if self.both_ways else self._read(ids, positions, mask)
            marks = [int(self.tokenizer().mask_token_id)] if self.pooling == "mask" else self.marks
            return bidirectional.pooled(hidden, ids, mask, self.pooling, marks)
        if self.attention not in SPARSE:
            dtype = self._compute_dtype(ids.device) if self.attention == "eager" else None
            return self._read(ids, positions, dense_masks(self._config, until, positions, dtype=dtype))
        real = (until > 0).flatten()
        kept, length = real.nonzero()[:, 0], until.shape[1]

        def flat(x: Tensor) -> Tensor:  # [R, L] -> [1, T]
            return x.flatten()[kept][None]

        # The last token that sees a token is none of padding, so the number of tokens up to there is the place past it.
        past = real.cumsum(0)[kept // length * length + flat(until)[0] - 1]
        if self.attention == TREES:
            dtype = self._compute_dtype(ids.device)
            biases, index = tree_biases(self._config, past, flat(positions)[0], dtype)
            found = self._read(flat(ids), flat(positions), biases, block_index=index)
        else:
            keep_versions()  # a setting of this thread
            found = self._read(flat(ids), flat(positions), flex_masks(self._config, past[None], flat(positions)))
        return found.new_zeros(until.numel(), found.shape[-1]).index_copy(0, kept, found[0]).view(*until.shape, -1)

    def _read(self, ids: Tensor, positions: Tensor, mask: Any, **more: BlockIndex) -> Tensor:
        with torch.no_grad() if self.frozen else nullcontext():
            result = self.transformer(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **more)
        hidden: Tensor = result.last_hidden_state
        return hidden

    def _rows(self, ids: Tensor, mask: Tensor) -> Tensor:
        types = bidirectional.segments(self._config, ids, self.tokenizer().sep_token_id)
        with torch.no_grad() if self.frozen else nullcontext():
            return bidirectional.read(self.model, ids, mask, types, self.pooling)

    def _compute_dtype(self, device: torch.device) -> torch.dtype:
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return cast(torch.dtype, self.model.dtype)

    @property
    def shares_prompts(self) -> bool:
        """Whether the state of a prompt's last token is that of the prompt alone, whatever follows."""
        return not self.both_ways and self.pooling == "last"

    def supports_trees(self, mixed: torch.dtype | None = None) -> bool:
        """Return whether the model respects a tree mask, and select the first kernel that does.

        If it does not, batches need `layout: padded`. Models that do not use transformers' attention interface build masks of their own
        and never support trees.

        Args:
            mixed: Dtype of autocast where batches are read; None: there is none.
        """
        if not self.shares_prompts or not type(self.model)._can_set_attn_implementation():
            return False
        device = next(self.parameters()).device
        if device.type not in self._trees:
            self._trees[device.type] = kernels.first_for_trees(self, self._kernels, device, mixed)
        elif found := self._trees[device.type]:
            self.use(found)
        return bool(self._trees[device.type])

    # ---- logits

    @property
    def output_factor(self) -> float:
        """Factor between the product of the output layer and the logits; 1 for most models."""
        return families.logit_factor(self._config)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token logits [.., V] of hidden states [.., H], scaled and soft-capped as in the model (`check_logits`)."""
        scores: Tensor = self.model.get_output_embeddings()(hidden)
        if (factor := self.output_factor) != 1:
            scores = scores * factor
        cap = families.logit_cap(self._config)
        return scores if cap is None else torch.tanh(scores / cap) * cap

    def check_output(self) -> None:
        """Check that the checkpoint has an output layer.

        Raises:
            CheckpointError: It has none, as that of a classifier, so that the output layer is random.
        """
        if self._random_output:
            way = "use a causal model" + (", or readout: linear with a pair model" if self.both_ways else "")
            raise CheckpointError(f"{self.path}: the checkpoint has no language-model head, which this run needs; {way}")

    def check_logits(self) -> None:
        """Check that there is an output layer and that `logits` agrees with the model.

        Raises:
            CheckpointError: See `check_output`.
            ConfigError: The model computes its logits in a way that `nn.families` does not know.
        """
        self.check_output()
        kernel = self.attention

        def probe() -> bool:
            if type(self.model)._can_set_attn_implementation():
                self.use("eager")  # other kernels need a GPU, and the model is not there yet
            bodies = {self.transformer, self.model.get_decoder()} - {self.model}  # OPT calls its decoder directly
            return probes.logits_match(self.model, bodies, self.hidden_size, self.logits)

        same = probes.passes(self, probe, f"{self.path}: the output layer cannot be probed")
        self.use(kernel)
        if not same:
            raise ConfigError(
                f"{self.path}: {type(self.model).__name__} transforms its hidden states before or after its output layer, so"
                " log-probabilities would be wrong; use another model for GPO, sft or the tokens readout"
            )

    def train_output(self) -> None:
        """Make the output layer trainable, for objectives that read logits, and run `check_logits`."""
        self.check_logits()
        if not self.frozen and self.lora is None:
            self.model.get_output_embeddings().requires_grad_(True)

    # ---- reading without training

    def twin(self, dtype: torch.dtype | None = None, adapters: bool = True) -> Backbone:
        """Return a backbone for reading that shares what it can: adapters merged or left out, weights in `dtype` (None: as they are)."""
        other = copy.copy(self)
        other._modules = {"model": twin(self.model, dtype, adapters)}
        other.lora, other.frozen, other.training, other._trees = None, True, False, {}
        return other

    # ---- export

    def merged_state(self) -> dict[str, Tensor]:
        """Return the weights of the plain language model, with enabled adapters merged, as an exported folder holds them.

        A random output layer is left out, so that `check_output` finds out when the folder is loaded.

        Raises:
            ConfigError: An adapter cannot be merged.
        """
        state = merged_state(self.model)
        if strange := sorted(state.keys() - self._names):
            raise ConfigError(f"{self.path}: LoRA wraps {strange[0]} in a way that cannot be merged; name other layers in lora.targets")
        return {name: tensor for name, tensor in state.items() if not (self._random_output and name.startswith("lm_head."))}

    def recipe(self) -> dict[str, Any]:
        """Return the constructor arguments that make the backbone again, as plain data."""
        path = os.path.abspath(os.path.expanduser(self.path)) if os.path.isdir(os.path.expanduser(self.path)) else self.path
        return {"path": path, **self.settings, "attention": self.attention, "lora": asdict(self.lora) if self.lora else None}
