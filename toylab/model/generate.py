"""Autoregressive generation: prompts continued token by token."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.layers import KVCache
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
    """Continue prompts token by token, each token drawn from the model's own distribution.

    Args:
        model: a `Transformer`, or with `cache=False` any module from tokens to logits.
        prompt: one row each, all of one length.
        steps: how many tokens to add; 0 gives the prompts back.
        temperature: 0 takes the likeliest token; above it, tokens are drawn from softmax(logits / temperature).
        generator: the source of randomness; needed above temperature 0. Tokens are drawn on its device, so that one
            of the CPU draws the same for a model that is elsewhere.
        stop: once a row has written this token, it is filled up with it; when all have, generation ends.
        cache: whether keys and values are kept. Without it every step reads the whole row again: slower, the same
            logits, and edits that index the whole row apply.
        samples: continuations of each prompt, which stand in consecutive rows; with a cache the prompt is read once.
        drop: whether rows that have ended leave the batch: faster where they end early, and edits see fewer rows.

    Raises:
        ValueError: for prompts that are empty or no whole numbers; for a negative number of steps; for a temperature
            that is negative or nan, or above 0 without a generator; for less than one sample; for a `stop` that is no
            token; where rows are to be dropped that never end, or without a cache; for logits that are nan.
    """
    _check_generation(prompt, steps, temperature, generator, stop, cache, samples, drop)
    kept, prompt = KVCache() if cache else None, prompt.long()
    tokens, new = prompt.repeat_interleave(samples, dim=0), prompt
    rows = torch.arange(len(tokens), device=prompt.device)  # which the model still reads
    ended = torch.zeros_like(rows, dtype=torch.bool)
    largest = []
    for step in range(steps):
        logits = (model(new, cache=kept) if cache else model(tokens))[:, -1]
        if stop is not None and not 0 <= stop < logits.shape[-1]:
            raise ToylabError(f"stop={stop}: must be a token, from 0 to {logits.shape[-1] - 1}")
        if kept is not None and step == 0 and samples > 1:
            logits = logits.repeat_interleave(samples, dim=0)
            kept.repeat(samples)
        if temperature == 0:
            values, chosen = logits.max(dim=-1)
            largest.append(values)
        else:
            assert generator is not None
            chances = _chances(logits, temperature).to(generator.device)
            chosen = torch.multinomial(chances, 1, generator=generator)[:, 0].to(tokens.device)
        if stop is not None:
            chosen = chosen.masked_fill(ended, stop)
            ended |= chosen == stop
        written = torch.full_like(tokens[:, :1], 0 if stop is None else stop)
        written[rows, 0] = chosen
        tokens = torch.cat([tokens, written], dim=1)
        if stop is not None and bool(ended.all()):
            break
        if drop and kept is not None and ended.float().mean() > 0.25:  # fewer are not worth copying what is kept
            going = ~ended
            rows, chosen, ended = rows[going], chosen[going], ended[going]
            kept.keep(going)
        new = chosen[:, None]
    if largest and bool(torch.cat(largest).isnan().any()):  # once, or every step would wait for the device
        raise ToylabError("logits: are nan, so no token is the likeliest; look for the point where nan begins")
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
    """Raises `ToylabError` for an argument of `generate` that is out of its range, or lacks another."""
    if prompt.ndim != 2 or not prompt.shape[1]:
        raise ToylabError(
            f"prompt: has the shape {tuple(prompt.shape)}; give (batch, position), at least one token a row"
        )
    if prompt.is_floating_point() or prompt.dtype == torch.bool:
        raise ToylabError(f"prompt: holds {prompt.dtype}, and tokens are whole numbers; convert it with .long()")
    check_range(steps=steps, least=0)
    if drop and (stop is None or not cache):
        raise ToylabError("drop=True: rows leave once they have written `stop`, and with a cache; give stop= as well")
    check_range(samples=samples, least=1)
    check_range("0 is greedy", temperature=temperature, least=0)
    if temperature > 0 and generator is None:
        raise ToylabError(f"temperature={temperature}: drawing needs a generator=torch.Generator().manual_seed(...)")


def _chances(logits: Float[Tensor, "row vocab"], temperature: float) -> Float[Tensor, "row vocab"]:
    """softmax(logits / temperature), which for temperatures towards 0 becomes 1 at the largest logit."""
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    if temperature < 1e-3:  # the quotient might overflow; above, it is left as it was, to the last bit
        logits, temperature = logits - logits.amax(dim=-1, keepdim=True), max(temperature, 1e-30)
    return (logits / temperature).softmax(dim=-1)
