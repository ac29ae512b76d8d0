"""Laws of what is decided on all prompts of few digits: each prompt once, and planted openers and answers are found."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.studies.steering_vectors.helpers import DIRECT, TASK, THINK, Scribe, chained, direct, sometimes
from tests.studies.steering_vectors.trainings import LAST, SEED, STUDY, base, begun, trained_on
from toylab.model.checkpoint import save_model
from toylab.model.steering import folded_unembedding, save_steering, steer
from toylab.proofs.exact import on_all_inputs
from toylab.studies.steering_vectors import measures
from toylab.studies.steering_vectors.exact import AnswersCorrectly, ChangesOpener, FewDigits, with_exact
from toylab.tasks import Reasoning

ALL = FewDigits.of(TASK)
PROMPTS = [[TASK.token("BOS"), *digits, TASK.token("SEP")] for digits in itertools.product(range(3), repeat=5)]


class Writer(Scribe):
    """Answers as it is told, with the logits of all positions where there is no cache."""

    def forward(self, tokens, *, cache=None, queries=None):
        if cache is None and queries is None:
            queries = torch.arange(tokens.shape[1]).expand(len(tokens), -1)
        return super().forward(tokens, cache=cache, queries=queries)


@dataclass(frozen=True)
class Held:
    """A result of a job of which only these decisions are known."""

    exact: object = None


def decide(model, property):
    return on_all_inputs(model, ALL, property, ALL.sampled_lengths)


@given(st.integers(3, 6), st.integers(2, 4))
@settings(max_examples=6)
def test_few_digits_number_each_prompt_of_these_digits_once_in_order(p, length):
    task = Reasoning(p=p, length=length)
    few = FewDigits.of(task)
    batch = few.enumerate(length, np.arange(few.count(length)))
    prompts = batch.tokens[:, : task.prompt]
    assert [tuple(row) for row in prompts[:, 1:-1].tolist()] == list(itertools.product(range(3), repeat=length + 1))
    assert [row.tolist() for row in batch.targets[:, task.prompt - 1 :]] == [task.solve(row) for row in prompts]
    assert few.count(length + 1) == 0
    assert str(few) == f"all {3 ** (length + 1):,} prompts of the digits 0 to 2"


def test_an_opener_is_changed_where_the_base_has_another_one():
    opens = Writer(lambda prompt: direct(prompt) if prompt[1] == 0 else chained(prompt))
    other = Writer(lambda prompt: chained(prompt) if prompt[2] == 0 else direct(prompt))
    changed = decide(opens, ChangesOpener(opener=THINK, base=other))
    assert (changed.inputs, changed.holds) == (243, 243 * 4 // 9)  # x0 and a_1 are both one of two of three digits
    assert decide(opens, ChangesOpener(opener=THINK)).holds == 162
    assert decide(opens, ChangesOpener(opener=DIRECT)).holds == 81
    assert changed.counterexample is not None
    assert "row 0" in changed.counterexample


def test_an_answer_counts_if_the_verifier_accepts_it_in_any_form():
    assert decide(Writer(sometimes(direct, chained)), AnswersCorrectly(task=TASK)).holds == 243
    wrong = Writer(sometimes(direct, lambda prompt: direct(prompt, more=1)))
    found = decide(wrong, AnswersCorrectly(task=TASK))
    assert (found.holds, found.margin) == (81, 200)
    assert "row 81 " in found.counterexample


@pytest.mark.parametrize("layer", [None, 0, LAST])
def test_shared_prefixes_decide_as_each_prompt_alone(layer):
    model = base() if layer is None else trained_on(base(), 0, layer)
    with torch.no_grad():
        openers = [model(torch.tensor([prompt]))[0, -1].argmax().item() for prompt in PROMPTS]
    for opener in {*openers, THINK}:
        assert decide(model, ChangesOpener(opener=opener)).holds == openers.count(opener)


def test_each_condition_is_decided_with_its_own_vector(tmp_path):
    model, task = base(), STUDY.task
    row = folded_unembedding(model).detach()[THINK]
    opening, penultimate = steer(model, {LAST: 40 * row}), steer(model, {LAST - 1: 1000 * row})
    job, folder = begun(tmp_path, base=model, vector=penultimate, **{f"theirs_{LAST}": steer(model, {LAST: 40 * row})})

    def exact(condition):
        return with_exact(STUDY, replace(job, condition=condition), folder, Held()).exact

    save_model(folder / "model.safetensors", model)
    save_steering(folder / "vector.safetensors", opening)
    save_steering(folder / "vectors.safetensors", steer(model, {LAST: 40 * row, 0: 0 * row + 1e-3}))
    thinks = exact("base").openers.holds
    assert thinks == decide(model, ChangesOpener(opener=THINK)).holds < 243
    assert exact("base").answers == decide(model, AnswersCorrectly(task=task))
    changes = ChangesOpener(opener=THINK, base=model)
    random = steer(model, {LAST: measures.random_vector(40 * row, LAST, SEED)})
    for condition in (f"vector-{LAST}", "random-reward", "joint", "transfer-from"):
        assert exact(condition).openers.holds == 243 - thinks
    assert exact(f"vector-{LAST}").random_openers == decide(random, changes)
    assert exact(f"vector-{LAST}").answers == decide(opening, AnswersCorrectly(task=task))
    assert exact("vector-0").answers is exact("joint").answers is None
    assert exact("full").openers.holds == 0  # of the base itself
    readers = measures.skipped_readers(LAST - 1, LAST)
    hidden = {
        name: measures.path_patched(penultimate, **readers[name]) for name in ("skip unembedding", "skip attention")
    }
    assert exact("paths") == {name: decide(one, changes) for name, one in hidden.items()}
    assert len({one.holds for one in exact("paths").values()}) == 2
    assert exact("adaptive") is None
