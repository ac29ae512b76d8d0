"""Inputs per CPU-second of each route beside whole rows: `python -m tests.proofs.rates`, for docs/prove.md."""

import time
from dataclasses import replace

import numpy as np
import torch

from toylab.model.encoder_decoder import ENCODER, EncoderDecoderConfig
from toylab.model.transformer import Transformer
from toylab.proofs.prove import BATCH
from toylab.proofs.routes import proof_copy, route_of, whole_rows
from toylab.runs.processes import single_thread
from toylab.studies.contextual_counting.data import counting_model
from toylab.studies.iteration_head.study import MODEL
from toylab.survey import DEFAULT_MODEL
from toylab.tasks import AssociativeRecall, ContextualCounting, Polynomial

WHOLE = 2**9  # rows of a forward pass; whole rows are fastest in small batches


@torch.inference_mode()
def print_rates(title, model, task, length, rows):
    """The best rates of three interleaved passes over the first `rows` inputs."""
    plain, copy = model.eval(), proof_copy(model)
    route = route_of(copy)
    ways = {"whole rows": (whole_rows, plain), "short softmax": (whole_rows, copy), route.__name__: (route, copy)}
    rates = dict.fromkeys(ways, 0.0)
    for _ in range(3):
        for name, (way, with_model) in ways.items():
            begin, batch = time.process_time(), WHOLE if way is whole_rows else BATCH
            for start in range(0, rows, batch):
                way(with_model, task.enumerate(length, np.arange(start, start + batch)))
            rates[name] = max(rates[name], rows / (time.process_time() - begin))
    print(
        title, *(f"{name}: {rate:,.0f} ({rate / rates['whole rows']:.2f})" for name, rate in rates.items()), sep="\n  "
    )


if __name__ == "__main__":
    single_thread()
    iteration, recall = Polynomial(), AssociativeRecall(pairs=3, keys=6, values=6)
    counting = ContextualCounting(length=(6, 12), regions=(1, 2))
    both_ways = EncoderDecoderConfig(encoder=replace(ENCODER, causal=False))
    print_rates("iteration head, length 6", Transformer.for_task(iteration, MODEL), iteration, 6, 2**13)
    print_rates("induction head, 3 pairs", Transformer.for_task(recall, DEFAULT_MODEL), recall, 3, 2**13)
    print_rates("counting, causal", counting_model(counting, EncoderDecoderConfig()), counting, 12, 2**14)
    print_rates("counting, bidirectional", counting_model(counting, both_ways), counting, 12, 2**14)
