"""A panel of each kind, whose model is handwritten or forced, so that its answers are known."""

from copy import deepcopy

import torch

from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import contextual_counter, iteration_head
from toylab.report.live import LivePanel
from toylab.tasks import ContextualCounting, Polynomial, Reasoning, TaskConcept

MAP = Polynomial(p=5, lengths=(4, 6))
STRINGS = ContextualCounting(length=16, regions=2)
CONCEPTS = TaskConcept()
CHAINS = Reasoning(p=3, length=2)
SMALL = ModelConfig(heads=2, width=32, positions="learned")


def iteration() -> LivePanel:
    """The handwritten iteration head, which is head 1.0."""
    return LivePanel(
        task=MAP,
        caption="c",
        claim="one",
        examples=[("1 2 3 4", "1 2 3 4")],
        models={"seed 0": iteration_head(MAP)},
        start={"seed 0": "1.0"},
        threshold=0.9,
    )


def counting() -> LivePanel:
    """The handwritten counter."""
    return LivePanel(
        task=STRINGS,
        caption="c",
        claim="one",
        examples=[("s", "01[101]0[1]0")],
        models={"seed 0": contextual_counter(2, STRINGS.classes)},
        facts={"bias": {"seed 0": [10.0, 10.0]}},
        start={"seed 0": "decoder.0"},
    )


def refusal() -> LivePanel:
    """A base with random weights, and a fine-tuned model that only refuses."""
    base = Transformer.for_task(CONCEPTS, SMALL)
    tuned = deepcopy(base)
    with torch.no_grad():
        base.unembedding.weight[CONCEPTS.null] = 0
        base.ln_final.bias[0] = tuned.ln_final.bias[0] = 10
        base.unembedding.weight[:, 0] = 0
        base.unembedding.weight[0, 0] = 1
        tuned.unembedding.weight[CONCEPTS.null, 0] = 100
    letters = " ".join(CONCEPTS.vocabulary[: CONCEPTS.answer])
    return LivePanel(
        task=CONCEPTS,
        caption="c",
        claim="one",
        examples=[("unsafe", f"U1 id {letters}"), ("safe", f"id S1 {letters}")],
        models={"seed 0": tuned},
        start={"seed 0": "1.0"},
        bases={"seed 0": base},
    )


def steering() -> LivePanel:
    """Two bases with random weights, and a vector along the unembedding row of THINK."""
    models = {f"seed {seed}": Transformer.for_task(CHAINS, SMALL, seed) for seed in (0, 1)}
    for model in models.values():
        with torch.no_grad():
            model.unembedding.weight[CHAINS.token("THINK")] *= 5
            model.unembedding.weight[CHAINS.token("DIRECT")] = -model.unembedding.weight[CHAINS.token("THINK")]
    vectors = {
        title: {
            "blocks.0.resid_post": torch.zeros(32),
            "blocks.1.resid_post": 1000 * model.unembedding.weight[CHAINS.token("THINK")].detach(),
        }
        for title, model in models.items()
    }
    return LivePanel(
        task=CHAINS,
        caption="c",
        claim="one",
        examples=[("0 1 2", "0 1 2")],
        models=models,
        start={"seed 0": "1.0", "seed 1": "1.1"},
        vectors=vectors,
    )
