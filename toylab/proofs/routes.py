"""Routes from a batch to the logits of its answers: every row whole, and routes that compute what rows share once.

All routes return the same logits up to rounding. A route is a function of a model and a batch; `route_of` selects the
one with the least work for a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.model.checkpoint import frozen_copy
from toylab.model.encoder_decoder import EncoderDecoder
from toylab.model.layers import Attention, short_softmax
from toylab.model.token_counts import TokenCounts
from toylab.model.transformer import Transformer
from toylab.probes.hooks import has_hooks
from toylab.proofs.prefixes import prefix_logits
from toylab.tasks import IGNORE, NO_POSITION, Batch
from toylab.training.batches import tokens_for

Route = Callable[[Any, Batch], Float[Tensor, "batch answer token"]]


def route_of(model: nn.Module) -> Route:
    """The route with the least work: for causal decoders shared prefixes, for encoders without positions token counts
    or states; for any other module, or one with hooks, which expect whole rows, whole rows."""
    if has_hooks(*model.modules()):
        return whole_rows
    if isinstance(model, Transformer) and model.config.causal and model.config.unembedding != "none":
        return shared_prefixes
    if isinstance(model, EncoderDecoder) and model.config.encoder.positions == "none":
        if not model.config.encoder.causal:
            return token_counts
        if model.config.encoder.layers == 1:
            return token_states
    return whole_rows


def proof_copy(model: nn.Module) -> nn.Module:
    """A frozen copy in evaluation mode, whose attention takes the softmax that is faster for few keys."""
    copy = frozen_copy(model)
    for module in copy.modules():
        if isinstance(module, Attention):
            module.normalise = short_softmax
    return copy


def answers_due(model: nn.Module, batch: Batch) -> Int[np.ndarray, "batch answer"]:
    """The correct token of each answer, `IGNORE` where a row has fewer: the targets of the scored positions, or for an
    encoder-decoder the count of each label query.

    Raises:
        ToylabError: for an encoder-decoder and a task whose label "count" does not fit its label queries.
    """
    if not isinstance(model, EncoderDecoder):
        if not len(scored := _scored(batch)):
            raise ToylabError(f"targets: are all {IGNORE}, so that there is no answer; give a task with targets")
        return batch.targets[:, scored]
    counts = batch.labels.get("count")
    if counts is None or counts.ndim != 2 or counts.shape[1] > model.queries:
        raise ToylabError(f"task: has no label 'count' for the {model.queries} label queries of the encoder-decoder")
    return np.where(counts == NO_POSITION, IGNORE, counts)


def whole_rows(model: nn.Module, batch: Batch) -> Float[Tensor, "batch answer token"]:
    """Logits of the answers, by a forward pass over all positions of every row."""
    if isinstance(model, EncoderDecoder):
        return model(_strings(model, batch))[:, : batch.labels["count"].shape[1]]
    return model(tokens_for(model, batch.tokens))[:, _scored(batch)]


def shared_prefixes(model: Transformer, batch: Batch) -> Float[Tensor, "batch answer token"]:
    """Logits of the answers, with every distinct prefix of consecutive rows computed once; see
    `toylab.proofs.prefixes`. With hooks, which expect whole rows, every row whole."""
    if has_hooks(*model.modules()):
        return whole_rows(model, batch)
    logits = prefix_logits(model, tokens_for(model, batch.tokens), torch.from_numpy(_scored(batch)))
    return whole_rows(model, batch) if bool(logits.isnan().any()) else logits


def token_counts(model: EncoderDecoder, batch: Batch) -> Float[Tensor, "batch answer token"]:
    """Logits of the answers, once for all strings with the same token counts, in a bidirectional encoder without
    positions.

    Without positions and mask, permuting the tokens of a string permutes the encoder's output in the same way, and the
    decoder, whose attention has no positions either, sums over them. The logits are a function of the token counts.
    """
    tokens = _strings(model, batch)
    counts = F.one_hot(tokens, model.symbols).sum(dim=1)
    _, group = torch.unique(counts, dim=0, return_inverse=True)
    representative = torch.empty(int(group.max()) + 1, dtype=torch.long)
    representative[group] = torch.arange(len(tokens))  # any row of the group
    return model(tokens[representative])[group][:, : batch.labels["count"].shape[1]]


def token_states(model: EncoderDecoder, batch: Batch) -> Float[Tensor, "batch answer token"]:
    """Logits of the answers, with the encoder computed once per state, in a causal encoder of one layer without
    positions.

    The first layer at a position is a function of its token and of the counts of the tokens up to it (see
    `toylab.model.token_counts`); further layers would also depend on their order. Rows share most of these states.
    """
    tokens = _strings(model, batch)
    one_hot = F.one_hot(tokens, model.symbols)
    counts = one_hot.cumsum(dim=1)
    bases = (tokens.shape[1] + 1) ** torch.arange(model.symbols)
    keys = (counts * bases).sum(dim=-1) * model.symbols + tokens  # the last term separates equal counts by their token
    _, state = torch.unique(keys, return_inverse=True)
    representative = torch.empty(int(state.max()) + 1, dtype=torch.long)
    representative[state.flatten()] = torch.arange(state.numel())
    dtype = model.encoder.embedding.weight.dtype
    types, log_counts = (x.flatten(0, 1)[representative][None] for x in (one_hot.to(dtype), counts.to(dtype).log()))
    streams = model.encoder(tokens.flatten()[representative][None], token_counts=TokenCounts(types, log_counts))
    return model.decoder(streams[0][state])[:, : batch.labels["count"].shape[1]]


def _scored(batch: Batch) -> Int[np.ndarray, " answer"]:
    """The positions that are scored in some row."""
    return np.flatnonzero((batch.targets != IGNORE).any(axis=0))


def _strings(model: EncoderDecoder, batch: Batch) -> Int[Tensor, "batch position"]:
    """The encoder's input: BoS, if the task has one, and the string, without the answers."""
    width = int(batch.labels["length"][0]) + int(batch.tokens[0, 0] == model.symbols - 1)
    return tokens_for(model, batch.tokens[:, :width])
