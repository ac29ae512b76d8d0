"""Proofs on models whose behaviour on every input was written by hand, or worked out by brute force."""

import itertools
import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import toylab
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.steering import Vector, steer
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import contextual_counter, induction_head, iteration_head
from toylab.probes import edit, follow_links, shift_links, watch
from toylab.proofs import prove as module
from toylab.proofs.properties import Agrees, Answers, Attends, Edited, IdealPattern, Opens, Outcome
from toylab.proofs.routes import shared_prefixes
from toylab.tasks import IGNORE, AssociativeRecall, ContextualCounting, Dyck, Polynomial, Reasoning, TaskConcept, stream
from toylab.tasks.base import split_of

TASK = Polynomial(p=5, lengths=(1, 4))
PLANTED = iteration_head(TASK)
RECALL = AssociativeRecall(pairs=2, keys=3, values=2)
RANDOM = Transformer.for_task(TASK, ModelConfig(width=16), 3)


def wrong_inputs(model, task, lengths):
    """All inputs that a model answers wrongly, one at a time, against the reference solution."""
    wrong = []
    for length in lengths:
        for inputs in itertools.product(task.inputs, repeat=length):
            prompt = [task.task_token, *inputs, task.end_of_input]
            answer = task.solve(prompt)
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer[:-1]]))[0, len(prompt) - 1 :]
            if logits.argmax(dim=-1).tolist() != answer:
                wrong.append(inputs)
    return wrong


@pytest.mark.parametrize("free_running", [False, True])
def test_a_model_written_by_hand_is_right_on_all_inputs(free_running):
    proof = toylab.prove(PLANTED, TASK, Answers(free_running=free_running))
    assert proof.holds is True
    assert proof.counts == {1: 4, 2: 16, 3: 64, 4: 256}
    assert proof.total("holds") == proof.rows == 340
    assert "for all 340 inputs of lengths 1 to 4" in str(proof)
    for length in proof.counts:
        inputs = np.array(list(itertools.product(TASK.inputs, repeat=length)))
        block = next(block for block in proof.blocks if block.length == length)
        assert block.train == int((split_of(inputs) == 0).sum())


def test_other_circuits_written_by_hand_are_right_on_all_inputs():
    assert toylab.prove(induction_head(RECALL), RECALL).holds is True
    counting = ContextualCounting(length=(4, 6), regions=(1, 2))
    proof = toylab.prove(contextual_counter(2, counting.classes), counting)
    assert (proof.holds, proof.rows) == (True, 25 + 90 + 300)


@pytest.mark.parametrize("batch", [7, 2048])
def test_counts_and_the_smallest_counterexample_are_those_of_brute_force(batch, monkeypatch):
    monkeypatch.setattr(module, "BATCH", batch)
    half = replace(TASK, lengths=(1, 3))
    model = iteration_head(half)
    with torch.no_grad():
        model.unembedding.weight[3] *= 0  # never says 3
    wrong = wrong_inputs(model, half, (1, 2, 3))
    proof = toylab.prove(model, half)
    assert proof.rows - proof.total("holds") == len(wrong) > 0
    smallest = next(block for block in proof.blocks if block.counterexample is not None)
    inputs = half.enumerate(smallest.length, np.array([smallest.counterexample])).tokens[0, 1 : 1 + smallest.length]
    assert tuple(inputs.tolist()) == wrong[0]
    assert proof.holds is False
    assert "smallest counterexample" in str(proof)
    held_out = [one for one in wrong if split_of(np.array([one]))[0] != 0]
    assert proof.total("holds") - proof.total("train_holds") == proof.rows - proof.total("train") - len(held_out)


def test_without_budget_the_rest_is_sampled_and_never_mixed_in():
    proof = toylab.prove(PLANTED, TASK, budget=0, sample=50)
    assert (proof.blocks, proof.holds, proof.is_complete) == ((), None, False)
    assert (proof.sample.rows, proof.sample.failures) == (50, 0)
    assert proof.sample.most == pytest.approx(1 - 0.05 ** (1 / 50))  # (1 - p)^50 = .05
    proof = toylab.prove(RANDOM, TASK, budget=0, sample=50)
    assert (proof.holds, proof.sample.failures) == (False, 50)


def test_the_sample_is_of_the_rows_that_are_left(monkeypatch):
    drawn = []
    original = module._decide
    monkeypatch.setattr(module, "_decide", lambda *given: drawn.append(given[4:]) or original(*given))
    module._sample_of_rest(PLANTED, TASK, Answers(), {1: 4, 2: 16, 3: 64}, 10, 400, 0)
    numbers = {length: set(found.tolist()) for length, found in drawn}
    assert numbers == {2: set(range(6, 16)), 3: set(range(64))}


@pytest.mark.slow
def test_blocks_come_in_order_and_two_processes_give_the_bits_of_one(monkeypatch):
    one = toylab.prove(RANDOM, TASK, lengths=range(2, 5))
    two = toylab.prove(RANDOM, TASK, lengths=range(2, 5), workers=2)
    assert one.blocks == two.blocks
    assert [block.length for block in one.blocks] == [2, 3, 4]


class Near(nn.Module):
    """The logits of two tokens differ by a given amount, in the direction that float64 alone resolves."""

    def __init__(self, lead):
        super().__init__()
        self.lead = nn.Parameter(torch.tensor(lead))

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, len(TASK.vocabulary), dtype=self.lead.dtype)
        logits[..., 1], logits[..., 2] = 10 + self.lead, 10 - self.lead
        return logits


@pytest.mark.parametrize(("lead", "close"), [(1e-9, 16), (4e-5, 16), (6e-5, 0), (1.0, 0)])
def test_small_margins_are_decided_in_float64_and_counted(lead, close):
    proof = toylab.prove(Near(lead), TASK, lengths=(2,))
    assert proof.total("close") == close
    assert proof.margin == pytest.approx(2 * lead, rel=0.05)
    again = toylab.prove(Near(-lead), TASK, lengths=(2,))
    assert [block.digest for block in again.blocks] != [block.digest for block in proof.blocks]  # the sign is resolved


def test_attention_of_the_planted_head_is_on_its_link_at_every_step():
    assert toylab.prove(PLANTED, TASK, Attends(link="carry", layer=1, head=0, threshold=0.99)).holds is True
    wrong = toylab.prove(PLANTED, TASK, Attends(link="carry", layer=0, head=0), lengths=range(2, 5))
    assert wrong.holds is False
    assert "link 'carry': head 1.0" in str(wrong)
    with pytest.raises(ToylabError, match="carry, stop"):
        toylab.prove(PLANTED, TASK, Attends(link="cary", layer=1, head=0))


def one_too_far(batch):
    links = batch.links["carry"]
    links = links[links[:, 2] < batch.labels["length"][0]]
    return {"blocks.1.attn.pattern": follow_links(0, shift_links(links, 1))}


def next_states(batch):
    """F(s_{t-1}, x_{t+1}) after EoI and each state but the last two."""
    predicted = np.full(batch.tokens.shape, IGNORE)
    for row, tokens in enumerate(batch.tokens.tolist()):
        length = int(batch.labels["length"][row])
        state = None
        for t in range(1, length):
            x = tokens[t + 1]
            predicted[row, length + t] = x if state is None else (state * x + 1) % 5
            state = tokens[length + 1 + t]
    return predicted


def test_edits_keep_every_answer_or_turn_it_into_the_predicted_one():
    ideal = Edited(edits=IdealPattern(link="carry", layer=1, head=0))
    assert toylab.prove(PLANTED, TASK, ideal).holds is True
    moved = Edited(edits=one_too_far, predicted=next_states)
    assert toylab.prove(PLANTED, TASK, moved, lengths=range(2, 5)).holds is True
    assert toylab.prove(PLANTED, TASK, Edited(edits=one_too_far), lengths=range(2, 5)).holds is False


@dataclass(frozen=True)
class MayFollow:
    """Every predicted token may follow."""

    task: Dyck

    def __call__(self, model, batch):
        decided = shared_prefixes(model, batch).argmax(dim=-1).numpy()
        allowed = [
            [token in self.task.solve(row[: at + 1]) for at, token in enumerate(tokens)]
            for row, tokens in zip(batch.tokens.tolist(), decided.tolist(), strict=True)
        ]
        return Outcome(decided, np.array(allowed), np.full(len(batch), math.inf))


def test_texts_are_proved_with_a_property_that_takes_every_token_that_may_follow():
    task = Dyck(pairs=(1, 2), kinds=1)
    model = Transformer.for_task(task, ModelConfig(width=8))
    with torch.no_grad():
        model.unembedding.weight.zero_()
        model.ln_final.bias.fill_(1.0)
        model.unembedding.weight[0] = 1.0  # always opens, which is wrong after two brackets
    proof = toylab.prove(model, task, MayFollow(task))
    assert (proof.rows, proof.total("holds")) == (3, 1)


def test_two_models_or_two_routes_agree():
    assert toylab.prove(RANDOM, TASK, Agrees(route=shared_prefixes)).holds is True
    assert toylab.prove(RANDOM, TASK, Agrees(model=PLANTED)).holds is False
    assert toylab.prove(PLANTED, TASK, Agrees(model=iteration_head(TASK))).holds is True


def test_a_vector_changes_every_opener():
    task = Reasoning(p=3, length=2)
    base = Transformer.for_task(task, ModelConfig(width=16, positions="learned"), 0)
    think = task.token("THINK")
    with torch.no_grad():
        base.unembedding.weight[think] = 0
        vector = base.unembedding.weight.new_zeros(16)
        base.unembedding.weight[think, 0], vector[0] = 50, 50
        base.unembedding.weight[task.token("DIRECT"), 0] = -50
        vector[1:] = 0
    steered = steer(base, {1: vector})
    proof = toylab.prove(steered, task, Opens(opener=think))
    assert proof.holds is True
    changed = toylab.prove(steered, task, Opens(opener=think, base=base))
    unsteered = toylab.prove(base, task, Opens(opener=think))
    assert changed.total("holds") == 27 - unsteered.total("holds")
    assert isinstance(steered.additions["1"], Vector)


@dataclass(frozen=True)
class SaysEven:
    """A property of a user: the first answer is an even token."""

    def __call__(self, model, batch):
        decided = model(torch.from_numpy(batch.tokens)).argmax(dim=-1).numpy()[:, -1:]
        return Outcome(decided, decided % 2 == 0, np.full(len(batch), math.inf))


def test_a_property_may_be_any_function_of_a_batch():
    proof = toylab.prove(RANDOM, TASK, SaysEven(), lengths=(3,))
    tokens = TASK.enumerate(3, np.arange(64)).tokens
    with torch.no_grad():
        decided = RANDOM(torch.from_numpy(tokens))[:, -1].argmax(dim=-1)
    assert proof.total("holds") == int((decided % 2 == 0).sum())
    assert proof.margin is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"task": TaskConcept()}, "TaskConcept: has no numbering"),
        ({"task": ContextualCounting()}, r"rows, and numbers end at 2\^63"),
        ({"task": Dyck(pairs=2)}, "several tokens may follow in a text of Dyck"),
        ({"lengths": ()}, "no row of these lengths"),
        ({"lengths": (9999,)}, r"has over 2\^\d+ rows"),
        ({"task": replace(TASK, p=7)}, "model: has .* tokens, and Polynomial has"),
        ({"property": Edited(edits=IdealPattern(link="cary", layer=0, head=0))}, "link='cary'"),
        ({"budget": -1}, "budget=-1"),
        ({"workers": 0}, "workers=0"),
        (
            {"model": induction_head(RECALL), "task": RECALL, "property": Answers(free_running=True)},
            "free-running",
        ),
    ],
)
def test_what_cannot_be_proved_is_refused(given, why):
    with pytest.raises(ToylabError, match=why):
        toylab.prove(**({"model": RANDOM, "task": TASK} | given))


def test_a_model_inside_edit_or_watch_is_refused_since_its_copies_lose_the_hooks():
    for context in (
        edit(PLANTED, {"blocks.0.attn.pattern": torch.zeros_like}),
        watch(PLANTED, "blocks.0.attn.pattern"),
    ):
        with context, pytest.raises(ToylabError, match="has hooks"):
            toylab.prove(PLANTED, TASK, lengths=(1,))
    zeroed = Edited(edits=lambda batch: {"blocks.1.attn.pattern": torch.zeros_like})
    assert toylab.prove(PLANTED, TASK, zeroed, lengths=(1,)).holds is False


class Broken(Polynomial):
    """A task whose numbering breaks its promises, as `fault` says."""

    fault = ""

    def count(self, length):
        return {"negative": -5, "broken": 2.5}.get(self.fault, 4**length)

    def enumerate(self, length, numbers):
        if self.fault == "rows":
            return super().enumerate(length, numbers[:1])
        batch = super().enumerate(length, numbers)
        splits = {"words": {"split": np.full(len(batch), "train")}, "no split": {}}
        if self.fault == "targets":
            return replace(batch, targets=np.full_like(batch.targets, IGNORE))
        return replace(batch, labels=splits.get(self.fault, batch.labels))


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("negative", r"count\(2\)=-5"),
        ("broken", r"count\(2\)=2.5"),
        ("rows", "gives 1 rows for 16"),
        ("words", "label 'split' from 0 to 2"),
        ("no split", "label 'split' from 0 to 2"),
        ("targets", "there is no answer"),
    ],
)
def test_a_task_whose_numbering_breaks_its_promises_is_refused(fault, why):
    task = type("Own", (Broken,), {"fault": fault})(p=5, lengths=(1, 4))
    with pytest.raises(ToylabError, match=why):
        toylab.prove(RANDOM, task, lengths=(2,))


ONE = np.ones((16, 1), dtype=int)


@pytest.mark.parametrize(
    "parts",
    [
        (ONE[:, 0], ONE[:, 0] == 1, np.ones(16)),
        (ONE, ONE + 1, np.ones(16)),  # numbers for truth values
        (ONE / 2, ONE == 1, np.ones(16)),
        (torch.ones(16, 1), ONE == 1, np.ones(16)),
    ],
)
def test_an_outcome_of_another_form_is_refused(parts):
    outcome = SimpleNamespace(**dict(zip(("decisions", "fulfilled", "margins"), parts, strict=True)))
    with pytest.raises(ToylabError, match="outcome"):
        Outcome.__post_init__(outcome)  # annotations are checked in tests alone


def test_a_property_decides_on_every_row():
    with pytest.raises(ToylabError, match="must return an Outcome with one row per row"):
        toylab.prove(RANDOM, TASK, lambda *_: Outcome(ONE[:1], ONE[:1] == 1, np.ones(1)), lengths=(2,))


def test_two_infinite_logits_have_no_lead_and_a_margin_of_nan_is_none():
    proof = toylab.prove(RANDOM, TASK, lambda *_: Outcome(ONE.copy(), ONE == 1, np.full(16, math.nan)), lengths=(2,))
    assert (proof.total("close"), proof.margin) == (16, 0)
    proof = toylab.prove(Near(math.inf), TASK, lengths=(2,))
    assert (proof.total("close"), proof.margin) == (0, None)
    both = toylab.prove(Both(0.0), TASK, lengths=(2,))
    assert (both.total("close"), both.margin) == (16, 0)


class Both(Near):
    """Two tokens have infinite logits."""

    def forward(self, tokens):
        return super().forward(tokens).clone().index_fill(-1, torch.tensor([1, 2]), math.inf)


def test_the_model_is_left_as_it_was():
    model = Transformer.for_task(TASK, ModelConfig(width=8), 0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    toylab.prove(model, TASK, lengths=(1,))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_draws_depend_on_the_seed_alone():
    first, second = (toylab.prove(RANDOM, TASK, budget=0, sample=20, seed=seed).sample for seed in (0, 0))
    assert first == second
    assert len(stream(0, "prove").integers(5, size=3)) == 3
