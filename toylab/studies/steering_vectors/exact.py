"""What each condition does on all prompts of few digits, decided one by one instead of sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from toylab.model.checkpoint import load_model
from toylab.model.steering import Steered, load_steering, steer
from toylab.model.transformer import Transformer
from toylab.probes import edit
from toylab.proofs.exact import Exact, on_all_inputs
from toylab.proofs.properties import UNDECIDED, Outcome
from toylab.proofs.routes import shared_prefixes, whole_rows
from toylab.runs.study import Job
from toylab.studies.steering_vectors import measures
from toylab.studies.steering_vectors.data import write_answers
from toylab.studies.steering_vectors.exact_results import ExactAnswers
from toylab.studies.steering_vectors.settings import Settings
from toylab.tasks import IGNORE, Batch, Reasoning
from toylab.tasks.enumeration import mixed_digits
from toylab.training.batches import likeliest, tokens_for
from toylab.training.losses import up_to_end

DIGITS = 3
"""Digits of the prompts. Of 3 digits and 6 steps there are 2,187 prompts, of all 7 digits 823,543."""
PATHS = ("skip unembedding", "skip attention")
"""Readers from which the penultimate vector is hidden."""


@dataclass(frozen=True, kw_only=True)
class FewDigits(Reasoning):
    """The task with a numbering of the prompts whose digits are all below `digits`, and of no others."""

    digits: int = DIGITS

    @classmethod
    def of(cls, task: Reasoning) -> FewDigits:
        """The prompts of few digits of a task without flag."""
        return cls(p=task.p, length=task.length, seed=task.seed, digits=min(DIGITS, task.p))

    def count(self, length: int) -> int:
        """Number of these prompts."""
        return self.digits ** (self.length + 1) if length == self.length else 0

    def enumerate(self, length: int, numbers: Int[np.ndarray, " batch"]) -> Batch:
        """The prompts with these numbers in lexicographic order, as rows of the task."""
        digits = mixed_digits(numbers, [self.digits] * (self.length + 1) if self.count(length) else [0])
        return super().enumerate(length, digits @ self.p ** np.arange(self.length, -1, -1))

    def __str__(self) -> str:
        return f"all {self.count(self.length):,} prompts of the digits 0 to {self.digits - 1}"


@dataclass(frozen=True, kw_only=True)
class ChangesOpener:
    """The answer opens with a token, and with `base` that of the base model opens with another one.

    Computes the prompts alone, where it can once for all that share their first digits.
    """

    opener: int
    base: nn.Module | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        first = int((batch.targets[0] != IGNORE).argmax()) + 1
        prompts = replace(batch, tokens=batch.tokens[:, :first], targets=batch.targets[:, :first])
        logits = [_logits(one, prompts)[:, 0] for one in (model, self.base) if one is not None]
        opened = np.stack([likeliest(one).cpu().numpy() for one in logits], axis=1)
        leads = [(top := one.topk(2, dim=-1).values)[:, 0] - top[:, 1] for one in logits]
        is_changed = (opened[:, 0] == self.opener) & (opened[:, 1:] != self.opener).all(axis=1)
        margins = np.min([lead.cpu().double().numpy() for lead in leads], axis=0)
        return Outcome(opened[:, :1], is_changed[:, None], margins)


@dataclass(frozen=True, kw_only=True)
class AnswersCorrectly:
    """The verifier of the task accepts the greedy answer, whatever its opener and dialect."""

    task: Reasoning

    def __call__(self, model: nn.Module, batch: Batch) -> Outcome:
        task, start = self.task, self.task.prompt
        prompts = tokens_for(model, batch.tokens[:, :start])
        answers = write_answers(model, task, prompts, temperature=0)
        logits = model(torch.cat([prompts, answers[:, :-1]], dim=1))[:, start - 1 :]
        is_written = up_to_end(task.token("EOS"), answers)
        leads = (top := logits.topk(2, dim=-1).values)[..., 0] - top[..., 1]
        margins = leads.masked_fill(~is_written, torch.inf).amin(dim=1).cpu().double().numpy()
        written = answers.cpu().numpy()
        is_correct = np.repeat(task.verify(prompts.cpu().numpy(), written)[:, None], task.answer, axis=1)
        return Outcome(np.where(is_written.cpu().numpy(), written, UNDECIDED), is_correct, margins)


def _logits(model: nn.Module, prompts: Batch) -> Float[Tensor, "batch answer token"]:
    if isinstance(model, Steered):
        with edit(model.model, model.edits()):
            return shared_prefixes(model.model, prompts)
    return shared_prefixes(model, prompts) if isinstance(model, Transformer) else whole_rows(model, prompts)


def with_exact(study: Settings, job: Job, folder: Path, result: Any) -> Any:
    """The result of a job with what its model does on all prompts of few digits, for the conditions of the claims."""
    if job.condition not in ("base", "full", "joint", "paths", "random-reward", "transfer-from", *study.vectors):
        return result
    task, last = FewDigits.of(study.task), study.last
    base = load_model(folder / "model.safetensors" if job.condition == "base" else job.path("base", folder))
    changes = ChangesOpener(opener=task.token("THINK"), base=None if job.condition == "base" else base)

    correct = AnswersCorrectly(task=study.task)

    def decide(model: nn.Module, property: Any = changes) -> Exact:
        return on_all_inputs(model, task, property, task.sampled_lengths)

    def with_random(steered: Steered, answers: bool = False) -> ExactAnswers:
        vectors = {int(layer): one.get_parameter("vector").detach() for layer, one in steered.additions.items()}
        random = {layer: measures.random_vector(vector, layer, job.seed) for layer, vector in vectors.items()}
        return ExactAnswers(
            openers=decide(steered),
            answers=decide(steered, correct) if answers else None,
            random_openers=decide(steer(base, random)),
        )

    if job.condition == "base":
        exact: Any = ExactAnswers(openers=decide(base), answers=decide(base, correct))
    elif job.condition == "full":
        model = load_model(folder / "model.safetensors")
        exact = ExactAnswers(openers=decide(model), answers=decide(model, correct))
    elif job.condition == "paths":
        steered, readers = load_steering(job.path("vector", folder), base), measures.skipped_readers(last - 1, last)
        exact = {name: decide(measures.path_patched(steered, **readers[name])) for name in PATHS}
    elif job.condition == "transfer-from":
        exact = with_random(load_steering(job.path(f"theirs-{last}", folder), base))
    else:
        file = "vectors.safetensors" if job.condition == "joint" else "vector.safetensors"
        exact = with_random(load_steering(folder / file, base), answers=job.condition == study.vectors[-1])
    return replace(result, exact=exact)
