"""Policies as preference models: implicit rewards, from the log-probabilities of answers (arXiv 2305.18290, eq. 5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.offline import PolicyReading, PolicyTexts
from prefrep.data.trees import Datum, TreeBatch
from prefrep.errors import ConfigError, UsageError
from prefrep.functional.logprobs import token_logprobs
from prefrep.io.fingerprint import fingerprint
from prefrep.io.folder import PreferenceModel
from prefrep.io.policy import context_of
from prefrep.io.shards import read_config, stored_dtype
from prefrep.modules.policy import sampled, sums
from prefrep.nn.backbone import Backbone
from prefrep.nn.bundled import resolve
from prefrep.nn.heads import BTHead
from prefrep.nn.loading import device_of
from prefrep.scoring.scorer import Scorer

log = logging.getLogger(__name__)

Form = Literal["ratio", "sum", "average", "norm"]


class ImplicitScorer(Scorer):
    """A policy whose log-probabilities are rewards: beta * log pi(y | x) / pi_ref(y | x), or a form without a reference.

    A response counts the tokens that the policy would sample: all up to the end that its template writes, or the EOS. That is what
    `DirectAlignment` sums, so rewards are those of its losses. The prompt is read once for all responses.

    RewardBench's `run_dpo` differs: it cuts the prompt out of the rendered answer by text, tokenises both by themselves, and puts the ids
    of BOS and EOS around them, also where the template has written them.

    Args:
        policy: The policy.
        reference: pi_ref, which reads the same token ids; None: a form without one.
        form: `ratio`: with a reference. `sum` of log-probabilities; their `average` per token; `norm`: minus their Euclidean norm.
        beta: Rewards are multiplied by it.
        encode: How text becomes token ids; None: templates as they are, and prompts name the column that the policy was trained to read.
        batch_tokens: See `Scorer`.
        layout: See `Scorer`.

    Raises:
        ConfigError: Form and reference do not go together, beta is not positive, or the two have different vocabularies.
        CheckpointError: A model has no output layer, or its folder is damaged.
    """

    def __init__(
        self,
        policy: Backbone,
        reference: Backbone | None,
        form: Form = "ratio",
        beta: float = 1.0,
        encode: EncodeConfig | None = None,
        batch_tokens: int = 4096,
        layout: Literal["auto", "trees", "padded"] = "auto",
    ) -> None:
        if (form == "ratio") != (reference is not None):
            raise ConfigError(f"form {form} " + ("needs a reference" if reference is None else "has no reference; drop it, or use ratio"))
        if not beta > 0:
            raise ConfigError(f"beta must be positive, got {beta}")
        tokenizer = policy.tokenizer()
        if reference is not None and reference.tokenizer().get_vocab() != tokenizer.get_vocab():
            raise ConfigError(f"{policy.path} and its reference {reference.path} have different vocabularies, so no ratio is defined")
        for model in (policy, reference):
            if model is not None:
                model.check_logits()
        head = BTHead(1).to(next(policy.parameters()).device)
        recipe = {"read from": "policy", "form": form, "beta": beta, "policy": policy.recipe(), "head": {"class": "BTHead"}}
        if reference is not None:
            recipe |= {"reference": reference.recipe()}
        encode = encode or EncodeConfig(max_length=2048, context=context_of(policy.path))
        rooms = [model.room for model in (policy, reference) if model is not None and model.room is not None]
        encode = replace(encode, max_length=min([encode.max_length, *rooms]))
        super().__init__(PreferenceModel(policy, head, 1 / beta, encode, tokenizer, recipe), batch_tokens, layout)
        self._reference, self._form = reference, form
        self._encoder = Encoder(tokenizer, self._encoder.config, "single", policy=True, given="refuse")
        if reference is not None and self._layout == "trees" and not reference.supports_trees():
            self._layout = "padded"
        limit = self._encoder.config.max_length
        ends = self._encoder.end_ids()
        self._texts = PolicyTexts([], PolicyReading(reference=False), ends, limit, pad_id(tokenizer), self._layout, batch_tokens)
        names = tokenizer.convert_ids_to_tokens(ends)
        log.info("%s: implicit rewards, %s, beta %g, answers end in %s, template %s", policy.path, form, beta, names, encode.template)

    @classmethod
    def of(
        cls,
        policy: str,
        reference: str | None,
        form: Form = "ratio",
        beta: float = 1.0,
        device: str = "auto",
        dtype: str | None = None,
        attention: str = "auto",
        batch_tokens: int = 4096,
        layout: Literal["auto", "trees", "padded"] = "auto",
        trust_remote_code: bool = False,
    ) -> ImplicitScorer:
        """Load policy and reference: local folders, hub ids or bundled models. Other arguments and errors are those of the class."""
        place = device_of(device)

        def loaded(path: str) -> Backbone:
            stored: Any = dtype or stored_dtype(read_config(str(resolve(path)), None, trust_remote_code))
            options: dict[str, Any] = {"attention": attention, "trust_remote_code": trust_remote_code}
            backbone = Backbone(path=path, dtype=stored, frozen=True, **options).to(place).eval()
            if backbone.both_ways:
                raise UsageError(f"{path}: reads both ways, so it is no policy; name a causal language model")
            return backbone

        other = None if reference is None else loaded(reference)
        found = cls(loaded(policy), other, form, beta, batch_tokens=batch_tokens, layout=layout)
        if reference is not None:
            found.model.recipe["reference fingerprint"] = fingerprint(resolve(reference))
        return found

    def _collated(self, data: Sequence[Datum], groups: Sequence[Sequence[int]] | None = None) -> TreeBatch:
        surplus = [each for datum in data for each in self._texts.surplus(datum)]
        return replace(super()._collated(data, groups), surplus=torch.tensor(surplus, device=self._device))

    def _row_capacity(self, wanted: int) -> int:
        """Return the least of policy and reference, which read the same batch."""
        own = super()._row_capacity(wanted)
        return own if self._reference is None else min(own, self._reference.row_capacity(wanted))

    def _embed(self, batch: TreeBatch) -> tuple[Tensor, Tensor | None]:
        assert batch.surplus is not None
        source, target, sequence = sampled(batch, batch.surplus)
        count, ids = len(batch.end), batch.ids.flatten()[target]

        def logprobs(model: Backbone) -> Tensor:
            hidden = model(batch.ids, batch.positions, batch.until, batch.padded).flatten(0, 1)
            return token_logprobs(hidden[source], ids, model.logits)

        own = logprobs(self.model.backbone)
        if self._reference is not None:
            own = own - logprobs(self._reference)
        if self._form == "norm":
            found = -sums(own**2, sequence, count).sqrt()
        else:
            found = sums(own, sequence, count)
        if self._form == "average":
            found = found / torch.bincount(sequence, minlength=count).clamp_min(1)
        return found[:, None], None
