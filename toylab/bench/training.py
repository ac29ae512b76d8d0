"""Benchmarks of training: one step, an epoch of variable lengths, arithmetic efficiency, and many seeds at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from toylab.bench import Comparison, compare_with_peer, interleaved_timings, matmul_limit
from toylab.bench.peers import (
    LENS,
    TORCH,
    Loss,
    adamw_step,
    language_model_loss,
    peer_config,
    peer_models,
    random_tokens,
)
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.tasks import Batch, Polynomial, stream
from toylab.training.batches import next_token_loss, pack, pad
from toylab.training.optimizer import AdamW, ParameterVector, flat_parameters

SHAPES = ((32, 34), (64, 66), (128, 66))
"""Width, and positions per row."""
TARGETS = {LENS: 0.6, TORCH: 0.9}


def bench_step(device: str, rows: int = 64, rounds: int = 15) -> Iterator[Comparison]:
    """One training step: forward, backward, clipping and AdamW, with every position scored."""
    for width, length in SHAPES:
        models, tokens = peer_models(peer_config(width), length, device), random_tokens(rows, length + 1, device)
        with flat_step(models["ours"]) as ours:
            step = {name: ours if name == "ours" else adamw_step(model) for name, model in models.items()}
            loss = {name: language_model_loss(model, tokens) for name, model in models.items()}
            seconds = interleaved_timings({name: partial(step[name], loss[name]) for name in models}, rounds, device)
        for peer, target in TARGETS.items():
            if peer in models:
                yield compare_with_peer(f"training step, width {width}, length {length}", seconds, peer, target)


@contextmanager
def flat_step(model: nn.Module) -> Iterator[Callable[[Loss], None]]:
    """The training step of `toylab.training.loop`, for benchmarks."""
    with flat_parameters(p for p in model.parameters() if p.requires_grad) as (weights, gradient):
        optimizer, vector = AdamW(weights, clip=1.0), ParameterVector(model, weights, gradient)

        def step(loss: Loss) -> None:
            vector.backward(loss())
            optimizer.step(gradient, 1e-3)

        yield step


def bench_epoch(device: str, sequences: int = 1024, rows: int = 64, rounds: int = 5) -> Iterator[Comparison]:
    """Sequences of the iterated map with lengths 1 to 16, scored on states and end token. toylab packs them and
    computes only scored logits; the other libraries pad each batch to its longest row and compute every position."""
    task = Polynomial()
    data = task.sample(stream(0, "bench"), sequences)
    batches = [data.rows(start, start + rows) for start in range(0, sequences, rows)]
    models = peer_models(peer_config(64), task.context, device, len(task.vocabulary))

    def padded(model: nn.Module, batch: Batch) -> torch.Tensor:
        logits = model(torch.from_numpy(batch.tokens).to(device))
        return F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten().to(device))

    def packed(model: nn.Module, batch: Batch) -> torch.Tensor:
        return next_token_loss(model, pack(batch).to(device))

    def whole(step: Callable[[Loss], None], loss: Callable, model: nn.Module) -> None:
        for batch in batches:
            step(partial(loss, model, batch))

    with flat_step(models["ours"]) as ours:
        works = {
            name: partial(whole, ours, packed, model)
            if name == "ours"
            else partial(whole, adamw_step(model), padded, model)
            for name, model in models.items()
        }
        seconds = interleaved_timings(works, rounds, device)
    best = min((name for name in models if name != "ours"), key=lambda name: statistics.median(seconds[name]))
    yield compare_with_peer("epoch of variable lengths", seconds, best, 0.5)


def bench_matmul_share(device: str, width: int = 128, rows: int = 256, rounds: int = 5) -> Iterator[Comparison]:
    """A training step relative to its matrix products alone, a lower bound on its time. Large square products run
    faster than these, which write much memory per operation."""
    length = 66
    config = peer_config(width)
    model = Transformer(config, 24, length).to(device)
    loss = language_model_loss(model, random_tokens(rows, length + 1, device))
    products, operations = matrix_products(config, rows, length, device)
    with flat_step(model) as step:
        seconds = interleaved_timings({"step": partial(step, loss), "products": products}, rounds, device)
    rates = {name: operations / statistics.median(timings) / 1e9 for name, timings in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    limit = matmul_limit(device=device) / 1e9
    note = f"square products reach {limit:.0f} GF/s, of which the step has {rates['step'] / limit:.2f}"
    work = f"step as matrix products, width {width}"
    yield Comparison(work, rates["step"], "GF/s", 0.75, ratio, {"them alone": rates["products"]}, more=True, note=note)


def matrix_products(config: ModelConfig, rows: int, length: int, device: str) -> tuple[Callable[[], object], int]:
    """A function that runs only the matrix products of a training step (forward and backward), and their number of
    floating-point operations."""
    width, heads = config.width, config.heads
    stream, hidden = (torch.randn(rows * length, n, device=device) for n in (width, 4 * width))
    square, up = torch.randn(width, width, device=device), torch.randn(width, 4 * width, device=device)
    query = torch.randn(rows * heads, length, width // heads, device=device)
    pattern = torch.randn(rows * heads, length, length, device=device)
    linear = [(stream, square)] * 8 + [(stream, up), (hidden, up.T)] * 2  # forward, and gradients of inputs
    linear += [(stream.T, stream)] * 4 + [(stream.T, hidden), (hidden.T, stream)]  # gradients of weights
    attention = [(query, query.mT), (pattern, query), (pattern.mT, query)] * 2
    pairs = (linear + attention) * config.layers

    def once() -> None:
        for left, right in pairs:
            left @ right

    return once, sum(2 * left.numel() * right.shape[-1] for left, right in pairs)


def bench_population(device: str, rounds: int = 5, seeds: int = 8) -> Iterator[Comparison]:
    """Joint training of many seeds of the iteration-head model, relative to one seed.

    Target: 4 times one seed's time on a GPU; on a CPU, which joint training cannot speed up, `seeds` times.
    """
    target = seeds if device == "cpu" else 4
    from toylab.studies.iteration_head.study import MODEL
    from toylab.training.population import Population

    task = Polynomial()
    members = [Transformer.for_task(task, MODEL, seed).to(device) for seed in range(seeds)]
    batches = [pad(task.sample(stream(seed, "bench"), 32)).to(device) for seed in range(seeds)]
    population = Population(members, next_token_loss)
    single = Transformer.for_task(task, MODEL, 0).to(device)
    with flat_step(single) as step:
        works = {
            "ours": partial(population.step, batches, 1e-3),
            "one seed": partial(step, partial(next_token_loss, single, batches[0])),
        }
        yield compare_with_peer(
            f"{seeds} seed{'s' * (seeds > 1)} as one program",
            interleaved_timings(works, rounds, device),
            "one seed",
            target,
        )
