"""Scaling of cost with row length, width, layers, input length of a task, and number of seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from toylab.bench import interleaved_timings
from toylab.bench.peers import VOCAB, language_model_loss, peer_config, random_tokens
from toylab.bench.training import flat_step
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoderConfig
from toylab.model.transformer import Transformer
from toylab.studies.contextual_counting.data import count_loss, counting_model, fresh_strings
from toylab.tasks import ContextualCounting, Polynomial, stream
from toylab.training.batches import next_token_loss, pack


@dataclass(frozen=True)
class GrowthCurve:
    """Seconds of an operation at several sizes.

    Attributes:
        work: the operation; the label of a line in the figure of `size`.
        size: the quantity that grows.
        sizes: its values.
        seconds: median seconds at each of them.
    """

    work: str
    size: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """Exponent of the power law of cost in size, fitted on the upper half of the sizes; 1 is linear."""
        half = len(self.sizes) // 2
        return float(np.polyfit(np.log(self.sizes[half:]), np.log(self.seconds[half:]), 1)[0])

    def __str__(self) -> str:
        return f"{self.work}: cost grows with exponent {self.exponent:.2f} in {self.size}"


def growth_curves(device: str = "cpu", rounds: int = 5) -> Iterator[GrowthCurve]:
    """All scaling curves. Training steps are those of `toylab.training.loop`, with every position scored."""
    lengths = (32, 64, 128, 256, 512)
    yield _curve(
        "training step, width 32",
        "length of a row",
        lengths,
        lambda s, n: _step(s, peer_config(32), n, 8, device),
        rounds,
    )
    yield _curve(
        "counting without positions, in linear time",
        "length of a row",
        lengths,
        lambda s, n: _counting_step(s, n, device),
        rounds,
    )
    widths = (16, 32, 64, 128, 256)
    yield _curve(
        "training step, 64 positions", "width", widths, lambda s, n: _step(s, peer_config(n), 64, 16, device), rounds
    )
    layers = (1, 2, 4, 8)
    yield _curve(
        "training step, width 32, 64 positions",
        "layers",
        layers,
        lambda s, n: _step(s, replace(peer_config(32), layers=n), 64, 16, device),
        rounds,
    )
    inputs = (8, 16, 32, 64)
    yield _curve("drawing 2048 rows", "inputs of a task", inputs, lambda s, n: _sampling(n), rounds)
    yield _curve("laying out 512 rows", "inputs of a task", inputs, lambda s, n: _packing(n), rounds)
    yield _curve(
        "training step, several a row", "inputs of a task", inputs, lambda s, n: _packed_step(s, n, device), rounds
    )
    seeds = (1, 2, 4, 8)
    yield _curve(
        "one step of each, one after the other", "seeds", seeds, lambda s, n: _separate_steps(s, n, device), rounds
    )
    yield _curve("as one program", "seeds", seeds, lambda s, n: _population_step(n, device), rounds)


def _curve(
    work: str, size: str, sizes: Sequence[int], make: Callable[[ExitStack, int], Callable[[], object]], rounds: int
) -> GrowthCurve:
    with ExitStack() as stack:
        seconds = interleaved_timings({str(n): make(stack, n) for n in sizes}, rounds)
    return GrowthCurve(work, size, tuple(sizes), tuple(statistics.median(timings) for timings in seconds.values()))


def _step(stack: ExitStack, config: ModelConfig, length: int, rows: int, device: str) -> Callable[[], object]:
    model = Transformer(config, VOCAB, length).to(device)
    step = stack.enter_context(flat_step(model))
    return partial(step, language_model_loss(model, random_tokens(rows, length + 1, device)))


def _counting_step(stack: ExitStack, length: int, device: str) -> Callable[[], object]:
    task = ContextualCounting(length=length, regions=4)
    model = counting_model(task, EncoderDecoderConfig())
    batch = fresh_strings(task, 0, 8, causal_counts=True)(0)
    return partial(stack.enter_context(flat_step(model)), partial(count_loss, model, batch))


def _sampling(inputs: int) -> Callable[[], object]:
    return lambda: Polynomial(lengths=(1, inputs)).sample(stream(0, "bench"), 2048)


def _packing(inputs: int) -> Callable[[], object]:
    batch = Polynomial(lengths=(1, inputs)).sample(stream(0, "bench"), 512)
    return lambda: pack(batch)


def _packed_step(stack: ExitStack, inputs: int, device: str) -> Callable[[], object]:
    task = Polynomial(lengths=(1, inputs))
    model = Transformer.for_task(task, peer_config(32)).to(device)
    batch = pack(task.sample(stream(0, "bench"), 64)).to(device)
    return partial(stack.enter_context(flat_step(model)), partial(next_token_loss, model, batch))


def _separate_steps(stack: ExitStack, seeds: int, device: str) -> Callable[[], object]:
    steps = [_packed_step(stack, 16, device) for _ in range(seeds)]
    return lambda: [step() for step in steps]


def _population_step(seeds: int, device: str) -> Callable[[], object]:
    from toylab.training.population import Population

    task = Polynomial()
    members = [
        Transformer.for_task(task, replace(peer_config(32), positions="sinusoidal"), seed).to(device)
        for seed in range(seeds)
    ]
    batches = [pack(task.sample(stream(0, "bench"), 64)).to(device) for _ in range(seeds)]
    return partial(Population(members, next_token_loss).step, batches, 1e-3)
