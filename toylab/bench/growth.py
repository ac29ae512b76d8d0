"""Scaling of cost with row length, width, layers, input length of a task, and number of seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
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
from toylab.training.population import Population


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


ROUNDS = 5


def growth_curves(device: str = "cpu") -> Iterator[GrowthCurve]:
    """All scaling curves. Training steps are those of `toylab.training.loop`, with every position scored."""
    for work, size, sizes, make in CURVES:
        with ExitStack() as stack:
            seconds = interleaved_timings({str(n): make(stack, device, n) for n in sizes}, ROUNDS)
        yield GrowthCurve(work, size, sizes, tuple(map(statistics.median, seconds.values())))


def _step(stack: ExitStack, device: str, config: ModelConfig, length: int, rows: int = 16) -> Callable[[], object]:
    model = Transformer(config, VOCAB, length).to(device)
    step = stack.enter_context(flat_step(model))
    return partial(step, language_model_loss(model, random_tokens(rows, length + 1, device)))


def _counting_step(stack: ExitStack, device: str, length: int) -> Callable[[], object]:
    task = ContextualCounting(length=length, regions=4)
    model = counting_model(task, EncoderDecoderConfig())
    batch = fresh_strings(task, 0, 8, causal_counts=True)(0)
    return partial(stack.enter_context(flat_step(model)), partial(count_loss, model, batch))


def _sampling(stack: ExitStack, device: str, inputs: int) -> Callable[[], object]:
    return lambda: Polynomial(lengths=(1, inputs)).sample(stream(0, "bench"), 2048)


def _packing(stack: ExitStack, device: str, inputs: int) -> Callable[[], object]:
    batch = Polynomial(lengths=(1, inputs)).sample(stream(0, "bench"), 512)
    return lambda: pack(batch)


def _packed_step(stack: ExitStack, device: str, inputs: int) -> Callable[[], object]:
    task = Polynomial(lengths=(1, inputs))
    model = Transformer.for_task(task, peer_config(32)).to(device)
    batch = pack(task.sample(stream(0, "bench"), 64)).to(device)
    return partial(stack.enter_context(flat_step(model)), partial(next_token_loss, model, batch))


def _separate_steps(stack: ExitStack, device: str, seeds: int) -> Callable[[], object]:
    steps = [_packed_step(stack, device, 16) for _ in range(seeds)]
    return lambda: [step() for step in steps]


def _population_step(stack: ExitStack, device: str, seeds: int) -> Callable[[], object]:
    task = Polynomial()
    members = [
        Transformer.for_task(task, replace(peer_config(32), positions="sinusoidal"), seed).to(device)
        for seed in range(seeds)
    ]
    batches = [pack(task.sample(stream(0, "bench"), 64)).to(device) for _ in range(seeds)]
    return partial(Population(members, next_token_loss).step, batches, 1e-3)


LENGTHS, WIDTHS, LAYERS = (32, 64, 128, 256, 512), (16, 32, 64, 128, 256), (1, 2, 4, 8)
INPUTS, SEEDS = (8, 16, 32, 64), (1, 2, 4, 8)
Make = Callable[[ExitStack, str, int], Callable[[], object]]
"""From a stack for the duration of the timings, the device and a size to the timed operation."""

CURVES: tuple[tuple[str, str, tuple[int, ...], Make], ...] = (
    ("training step, width 32", "length of a row", LENGTHS, lambda s, to, n: _step(s, to, peer_config(32), n, 8)),
    ("counting without positions, in linear time", "length of a row", LENGTHS, _counting_step),
    ("training step, 64 positions", "width", WIDTHS, lambda s, to, n: _step(s, to, peer_config(n), 64)),
    ("training step, width 32, 64 positions", "layers", LAYERS, lambda s, to, n: _step(s, to, peer_config(32, n), 64)),
    ("drawing 2048 rows", "inputs of a task", INPUTS, _sampling),
    ("laying out 512 rows", "inputs of a task", INPUTS, _packing),
    ("training step, several a row", "inputs of a task", INPUTS, _packed_step),
    ("one step of each, one after the other", "seeds", SEEDS, _separate_steps),
    ("as one program", "seeds", SEEDS, _population_step),
)
"""Operation, the quantity that grows, its values, and how the operation is made."""
