"""Autoregressive generation."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.layers import KVCache
from toylab.model.modes import evaluation_mode
from toylab.settings import check_range


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: Int[Tensor, "batch position"],
    steps: int,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    stop: int | None = None,
    cache: bool = True,
    samples: int = 1,
    drop: bool = False,
) -> Int[Tensor, "row longer"]:
    """Generate tokens autoregressively, without dropout; returns prompts and continuations.

    Args:
        model: a `Transformer`, or with `cache=False` any module from tokens to logits. It runs in evaluation mode, also
            inside a training, where only the loss has dropout.
        prompt: prompts of equal length, one per row.
        steps: maximum number of new tokens.
        temperature: 0 for greedy decoding, otherwise tokens are sampled from softmax(logits / temperature).
        generator: source of randomness, required above temperature 0. Sampling runs on its device, so a CPU generator
            gives the same tokens for a model on any device.
        stop: end token; a row that has ended is padded with it, and generation stops when all rows have ended.
        cache: whether to use a KV cache. Without it every step recomputes the whole row, which is slower but lets edits
            index all positions.
        samples: continuations per prompt, in consecutive rows; with a cache the prompt is processed once.
        drop: whether to remove ended rows from the batch: faster if rows end early, but edits receive fewer rows.

    Raises:
        ToylabError: for empty or non-integer prompts; for negative `steps`; for a temperature that is negative, NaN, or
            above 0 without a generator; for `samples` below 1; for a `stop` outside the vocabulary; for `drop` without
            `stop` or without a cache; for NaN logits.
    """
    _check_generation(prompt, steps, temperature, generator, stop, cache, samples, drop)
    kv_cache, prompt = KVCache() if cache else None, prompt.long()
    tokens, new = prompt.repeat_interleave(samples, dim=0), prompt
    rows = torch.arange(len(tokens), device=prompt.device)  # rows still in the batch
    ended = torch.zeros_like(rows, dtype=torch.bool)
    largest = []
    with evaluation_mode(model):
        for step in range(steps):
            logits = (model(new, cache=kv_cache) if cache else model(tokens))[:, -1]
            if stop is not None and not 0 <= stop < logits.shape[-1]:
                raise ToylabError(f"stop={stop}: must be a token, from 0 to {logits.shape[-1] - 1}")
            if kv_cache is not None and step == 0 and samples > 1:
                logits = logits.repeat_interleave(samples, dim=0)
                kv_cache.repeat(samples)
            if temperature == 0:
                values, next_tokens = logits.max(dim=-1)
                largest.append(values)
            else:
                assert generator is not None
                probabilities = _probabilities(logits, temperature).to(generator.device)
                next_tokens = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(tokens.device)
            if stop is not None:
                next_tokens = next_tokens.masked_fill(ended, stop)
                ended |= next_tokens == stop
            column = torch.full_like(tokens[:, :1], 0 if stop is None else stop)
            column[rows, 0] = next_tokens
            tokens = torch.cat([tokens, column], dim=1)
            if stop is not None and bool(ended.all()):
                break
            if drop and kv_cache is not None and ended.float().mean() > 0.25:  # below, copying the cache costs more
                active = ~ended
                rows, next_tokens, ended = rows[active], next_tokens[active], ended[active]
                kv_cache.keep(active)
            new = next_tokens[:, None]
    if largest and bool(torch.cat(largest).isnan().any()):  # once at the end: avoids a device sync per step
        raise ToylabError("logits: are nan, so there is no argmax; find the first hook point with nan")
    return tokens


def _check_generation(
    prompt: Tensor,
    steps: int,
    temperature: float,
    generator: torch.Generator | None,
    stop: int | None,
    cache: bool,
    samples: int,
    drop: bool,
) -> None:
    """Raises `ToylabError` for invalid arguments of `generate` or combinations of them."""
    if prompt.ndim != 2 or not prompt.shape[1]:
        raise ToylabError(
            f"prompt: has the shape {tuple(prompt.shape)}; give (batch, position), at least one token per row"
        )
    if prompt.is_floating_point() or prompt.dtype == torch.bool:
        raise ToylabError(f"prompt: holds {prompt.dtype}, and token ids are integers; convert it with .long()")
    check_range(steps=steps, least=0)
    if drop and (stop is None or not cache):
        raise ToylabError("drop=True: needs an end token and a cache; give stop= and cache=True")
    check_range(samples=samples, least=1)
    check_range("0 is greedy", temperature=temperature, least=0)
    if temperature > 0 and generator is None:
        raise ToylabError(f"temperature={temperature}: sampling needs a generator=torch.Generator().manual_seed(...)")


def _probabilities(logits: Float[Tensor, "row vocab"], temperature: float) -> Float[Tensor, "row vocab"]:
    """softmax(logits / temperature), stable for temperatures near 0."""
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    if temperature < 1e-3:  # the quotient may overflow; larger temperatures keep their exact bits
        logits, temperature = logits - logits.amax(dim=-1, keepdim=True), max(temperature, 1e-30)
    return (logits / temperature).softmax(dim=-1)
