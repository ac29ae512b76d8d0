"""Training: one step, an epoch of rows of many lengths, how near to the machine's limit, and many seeds at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tasks import Batch, Polynomial, stream
from toylab.batches import next_token_loss, pack, pad
from toylab.bench import Comparison, against, interleaved, matmul_limit
from toylab.bench.peers import LENS, TORCH, Loss, models, next_token, shape, tokens, trainer
from toylab.model import Transformer
from toylab.optimizer import AdamW, as_one

SHAPES = ((32, 34), (64, 66), (128, 66))
"""Width, and positions a row."""
TARGETS = {LENS: 0.6, TORCH: 0.9}


def steps(device: str, rows: int = 64, rounds: int = 15) -> Iterator[Comparison]:
    """Forward, backward, clipping and AdamW, every position scored."""
    for width, length in SHAPES:
        held, drawn = models(shape(width), length, device), tokens(rows, length + 1, device)
        with ours_as_one(held["ours"]) as ours:
            step = {name: ours if name == "ours" else trainer(model) for name, model in held.items()}
            loss = {name: next_token(model, drawn) for name, model in held.items()}
            seconds = interleaved({name: partial(step[name], loss[name]) for name in held}, rounds, device)
        for peer, target in TARGETS.items():
            if peer in held:
                yield against(f"training step, width {width}, length {length}", seconds, peer, target)


@contextmanager
def ours_as_one(model: nn.Module) -> Iterator[Callable[[Loss], None]]:
    """The step of `toylab.train`."""
    with as_one(p for p in model.parameters() if p.requires_grad) as (weights, gradient):
        optimizer = AdamW(weights, clip=1.0)

        def step(loss: Loss) -> None:
            gradient.zero_()
            loss().backward()
            optimizer.step(gradient, 1e-3)

        yield step


def epoch(device: str, sequences: int = 1024, rows: int = 64, rounds: int = 5) -> Iterator[Comparison]:
    """Sequences of the iterated map, lengths 1 to 16, of which states and end are scored. Ours packs them and computes
    what is scored; the others pad each batch to its longest and compute every position."""
    task = Polynomial()
    drawn = task.sample(stream(0, "bench"), sequences)
    batches = [drawn.rows(start, start + rows) for start in range(0, sequences, rows)]
    held = models(shape(64), task.context, device, len(task.vocabulary))

    def padded(model: nn.Module, batch: Batch) -> torch.Tensor:
        logits = model(torch.from_numpy(batch.tokens).to(device))
        return F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten().to(device))

    def packed(model: nn.Module, batch: Batch) -> torch.Tensor:
        return next_token_loss(model, pack(batch).to(device))

    def whole(step: Callable[[Loss], None], loss: Callable, model: nn.Module) -> None:
        for batch in batches:
            step(partial(loss, model, batch))

    with ours_as_one(held["ours"]) as ours:
        works = {
            name: partial(whole, ours, packed, model)
            if name == "ours"
            else partial(whole, trainer(model), padded, model)
            for name, model in held.items()
        }
        seconds = interleaved(works, rounds, device)
    best = min((name for name in held if name != "ours"), key=lambda name: statistics.median(seconds[name]))
    yield against("epoch of variable lengths", seconds, best, 0.5)


def share(device: str, width: int = 128, rows: int = 256, rounds: int = 5) -> Iterator[Comparison]:
    """Operations of the matrix products of a step, over the time of the whole step, beside the machine's limit."""
    length = 66
    model = Transformer(shape(width), 24, length).to(device)
    loss = next_token(model, tokens(rows, length + 1, device))
    limit = matmul_limit(device=device)
    with ours_as_one(model) as step:
        with FlopCounterMode(display=False) as counted:
            step(loss)
        seconds = interleaved({"step": partial(step, loss)}, rounds, device)["step"]
    rate = counted.get_total_flops() / statistics.median(seconds)
    work = f"matrix products, width {width}, {rows} rows"
    yield Comparison(work, rate / 1e9, "GF/s", 0.75, rate / limit, {"the limit": limit / 1e9}, more=True)


def population(device: str, seeds: int = 8, rounds: int = 5) -> Iterator[Comparison]:
    """Training some seeds of the iteration head's model as one program, beside one of them alone."""
    from toylab.population import Population
    from toylab.studies.iteration_head import MODEL

    task = Polynomial()
    members = [Transformer.for_task(task, MODEL, seed).to(device) for seed in range(seeds)]
    drawn = [pad(task.sample(stream(seed, "bench"), 32)).to(device) for seed in range(seeds)]
    together = Population(members, next_token_loss)
    alone = Transformer.for_task(task, MODEL, 0).to(device)
    with ours_as_one(alone) as step:
        works = {
            "ours": partial(together.step, drawn, 1e-3),
            "one seed": partial(step, partial(next_token_loss, alone, drawn[0])),
        }
        yield against(f"{seeds} seeds as one program", interleaved(works, rounds, device), "one seed", seeds)


DONE = {"step": steps, "epoch": epoch, "share": share, "population": population}
