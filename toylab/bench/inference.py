"""Benchmarks of inference: watching hook points, generation, and generation with a steering vector."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from toylab.bench import Comparison, compare_with_peer, interleaved_timings
from toylab.bench.peers import LENS, lens_model, peer_config, peer_models, random_tokens
from toylab.model.generate import generate
from toylab.model.steering import steer
from toylab.model.transformer import Transformer
from toylab.probes import points, watch

ROWS, PROMPT, NEW_TOKENS = 256, 16, 10
"""Size of the generation benchmarks: rows, prompt tokens, and generated tokens per row."""


@torch.no_grad()
def bench_watch(device: str, rounds: int = 25) -> Iterator[Comparison]:
    """Forward pass of 64 rows of 66 tokens at width 64, watching all points or none, relative to a plain pass."""
    models, tokens = peer_models(peer_config(64), 66, device), random_tokens(64, 66, device)
    model = models["ours"]

    def watched(*names: str) -> None:
        with watch(model, *names):
            model(tokens)

    works = {"plain": partial(model, tokens), "ours": partial(watched, *points(model)), "nothing": watched}
    if LENS in models:
        works |= {LENS: partial(models[LENS], tokens), "cached": partial(_with_cache(models[LENS]), tokens)}
    seconds = interleaved_timings(works, rounds, device)
    comparison = compare_with_peer("watching every point", seconds, "plain", 1.15)
    if LENS in models:
        peer_ratio = compare_with_peer("", seconds, LENS, 0.0, ours="cached").ratio
        comparison = Comparison(
            **{**vars(comparison), "note": f"TransformerLens: {peer_ratio:.2f} of its own plain pass"}
        )
    yield comparison
    yield compare_with_peer("watching nothing", seconds, "plain", 1.0, ours="nothing")


def _with_cache(peer: Any) -> Callable[..., object]:
    return peer.run_with_cache


@torch.no_grad()
def bench_generate(device: str, rounds: int = 9) -> Iterator[Comparison]:
    """Greedy generation, each library with its own key-value cache."""
    config, context = peer_config(64, layers=4), PROMPT + NEW_TOKENS
    model, prompts = Transformer(config, 24, context).to(device), random_tokens(ROWS, PROMPT, device)
    works: dict[str, Callable[[], object]] = {"ours": partial(generate, model, prompts, NEW_TOKENS)}
    if (peer := lens_model(config, 24, 2 * context, device)) is not None:
        settings = {"do_sample": False, "stop_at_eos": False, "verbose": False, "prepend_bos": False}

        def theirs() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                peer.generate(prompts, max_new_tokens=NEW_TOKENS, return_type="tokens", **settings)

        works[LENS] = theirs
    else:
        works["without a cache"] = partial(generate, model, prompts, NEW_TOKENS, cache=False)
    seconds = interleaved_timings(works, rounds, device)
    yield compare_with_peer(f"generating {ROWS} x {NEW_TOKENS} tokens", seconds, list(works)[1], 0.35)


@torch.no_grad()
def bench_edit(device: str, rounds: int = 25) -> Iterator[Comparison]:
    """Greedy generation with a vector added after the second-to-last block at every position, relative to none."""
    plain = Transformer(peer_config(64, layers=4), 24, PROMPT + NEW_TOKENS).to(device)
    steered = steer(plain, {2: torch.ones(64, device=device)}).to(device)
    prompts = random_tokens(ROWS, PROMPT, device)
    works = {
        "ours": partial(generate, steered, prompts, NEW_TOKENS),
        "plain": partial(generate, plain, prompts, NEW_TOKENS),
    }
    yield compare_with_peer(
        "generating with a steering vector", interleaved_timings(works, rounds, device), "plain", 1.1
    )
