"""Laws of surveys: on circuits written by hand they name the head that was planted, and what it is worth."""

import re
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from toylab import ModelConfig, Transformer
from toylab.console import ToylabError
from toylab.planted.disguise import add_heads
from toylab.planted.handwritten import induction_head, iteration_head
from toylab.probes import follow_links, link_mass, shift_links, watch
from toylab.survey import (
    UNTIL_SOLVED,
    Recipe,
    copy_accuracy,
    strongest_head,
    survey,
    train_on_task,
    train_with_history,
)
from toylab.tasks import IGNORE, AssociativeRecall, Dyck, MultiHopRecall, Parity, stream
from toylab.tasks.strategies import instances
from toylab.training.batches import BLOCK_STEPS, pad, training_batches

some = fewer(0.3)


@some
@given(st.data())
def test_the_induction_circuit_is_exact_and_its_two_heads_are_named(data):
    # With one pair, the token before the query is the value that is asked for, and either head reads it.
    task = data.draw(instances(AssociativeRecall).filter(lambda task: task.fewest > 1))
    found = survey(induction_head(task), task.sample(stream(data.draw(st.integers(0, 99))), 40))
    assert (found.accuracy, found.rows) == (1, 1)
    heads = {one.link: (one.layer, one.head) for one in found.readings}
    assert heads == {"previous token": (0, 0), "induction": (1, 0)}
    assert all(one.mass > 0.999 for one in found.readings)


def test_without_either_head_recall_is_chance():
    task = AssociativeRecall(pairs=6)
    found = survey(induction_head(task), task.sample(stream(0), 300))
    for one in found.readings:
        assert one.without < 0.2
        assert (
            one.other_ablated_accuracy
            == {other.link: other.without for other in found.readings if other != one}.popitem()[1]
        )


@pytest.mark.parametrize("at", [0, 1])
def test_a_head_without_output_is_worth_nothing_and_the_planted_one_everything(at):
    task = AssociativeRecall(pairs=4)
    planted = add_heads(induction_head(task), 2, at, np.random.default_rng(0))
    found = survey(planted, task.sample(stream(0), 100))
    assert {(one.layer, one.head) for one in found.readings} == {(0, at), (1, at)}
    for head in found.heads:
        assert (head.without < 0.4) if head.head == at else (head.without == 1)


def test_the_iteration_circuit_is_read_as_the_detector_reads_it():
    task = Parity(lengths=(2, 8))
    found = survey(iteration_head(task), task.sample(stream(1), 60))
    assert found.accuracy == 1
    end, carry, stop = found.readings
    assert (end.layer, carry.layer) == (0, 1)
    assert min(end.mass, carry.mass, stop.mass) > 0.999  # both heads make the stop: the first reads EoI everywhere


def test_links_without_an_edge_are_left_out_and_one_head_has_no_other():
    task = AssociativeRecall()
    batch = task.sample(stream(2), 30)
    model = Transformer.for_task(task, ModelConfig(layers=1, heads=1))
    found = survey(model, replace(batch, links={**batch.links, "nothing": batch.links["induction"][:0]}))
    assert [one.link for one in found.readings] == ["previous token", "induction"]
    assert all(one.other_ablated_accuracy is None for one in found.readings)
    assert "-" in str(found).splitlines()[-1]


@pytest.mark.slow
def test_a_trained_model_has_grown_the_two_heads():
    task = AssociativeRecall()
    model, batch = train_on_task(task, seed=1), task.sample(stream(1, "survey"), 256, "test")
    found = survey(model, batch)
    assert found.accuracy > 0.99
    previous, induction = found.readings
    assert (previous.layer, induction.layer) == (0, 1)
    assert min(previous.mass, induction.mass) > 0.9
    assert induction.without < 0.8
    with watch(model, "blocks.1.attn.pattern") as seen:
        model(torch.from_numpy(batch.tokens))
    mass = link_mass(seen["blocks.1.attn.pattern"], batch.links["induction"])
    assert mass.max().item() == pytest.approx(induction.mass)


def test_the_table_says_what_was_found():
    task = AssociativeRecall()
    found = survey(induction_head(task), task.sample(stream(1, "survey"), 60))
    lines = str(found).splitlines()
    assert lines[0] == f"accuracy: {found.accuracy:.3f} of the scored tokens, {found.rows:.3f} of the rows"
    assert re.match(r"induction +1\.\d", lines[-1])
    assert max(map(len, lines)) <= 80


def test_what_was_learned_comes_with_what_was_reached():
    task, few = AssociativeRecall(), Recipe(train=replace(UNTIL_SOLVED, steps=4, rows=8))
    model, state = train_with_history(task, recipe=few)
    assert state.step == state.history[-1]["step"] == 4
    assert (
        state.history[-1]["accuracy"] == survey(model, task.sample(stream(0, "validation"), 128, "validation")).accuracy
    )
    assert model.embedding.weight.equal(train_on_task(task, recipe=few).embedding.weight)


class Parities(Parity):
    """Notes the lengths of the rows of each training batch."""

    noted: ClassVar[list] = []

    def sample(self, rng, rows, split="train", **more):
        self.noted.extend([self.lengths] * (split == "train"))
        return super().sample(rng, rows, split, **more)


class Hops(MultiHopRecall):
    """Notes the hops of each training batch."""

    noted: ClassVar[list] = []

    def sample(self, rng, rows, split="train"):
        self.noted.extend([self.hops] * (split == "train"))
        return super().sample(rng, rows, split)


SMALL = ModelConfig(layers=1, width=16)


@pytest.mark.parametrize(
    ("task", "first", "last"), [(Parities(lengths=(2, 9)), (2, 4), (2, 9)), (Hops(hops=3, pairs=(4, 6)), 1, 3)]
)
def test_rows_grow_to_the_whole_task(task, first, last):
    task.noted.clear()
    few = Recipe(model=SMALL, train=replace(UNTIL_SOLVED, steps=2 * BLOCK_STEPS + 1, rows=1), growth=BLOCK_STEPS)
    train_with_history(task, recipe=few)
    assert (task.noted[0], task.noted[-1]) == (first, last)
    assert task.noted == sorted(task.noted)
    task.noted.clear()
    train_with_history(task, recipe=replace(few, growth=0, train=replace(few.train, steps=1)))
    assert set(task.noted) == {last}


@some
@given(st.integers(0, 99), st.sampled_from([0.5, 1.0, 4.0]))
def test_the_loss_of_the_end_token_is_weighted(seed, weight):
    task, train = Parity(lengths=12), replace(UNTIL_SOLVED, steps=0, rows=5)
    _, state = train_with_history(task, seed=seed, recipe=Recipe(model=SMALL, train=train, end_weight=weight))
    (first,) = state.history
    batch = training_batches(task, seed, 5, pad)(0)
    nats = -batch.logits(Transformer.for_task(task, SMALL, seed)).detach().log_softmax(dim=-1)
    total, weights = 0.0, 0.0
    for row, position in (batch.targets != IGNORE).nonzero().tolist():
        target = int(batch.targets[row, position])
        share = weight if task.vocabulary[target] == "EoS" else 1.0
        total, weights = total + share * float(nats[row, position, target]), weights + share
    assert first["loss"] == pytest.approx(total / weights, rel=1e-4)


@pytest.mark.parametrize(("name", "value", "task"), [("growth", 5, Dyck()), ("end_weight", 2.0, MultiHopRecall())])
def test_a_recipe_of_another_kind_of_task_is_refused(name, value, task):
    with pytest.raises(
        ToylabError, match=rf"^{name}={value}: is for IteratedMap.*; must be .* for {type(task).__name__}$"
    ):
        train_with_history(task, recipe=replace(Recipe(), **{name: value}))


def test_the_same_seed_trains_the_same_model():
    task, few = AssociativeRecall(), Recipe(train=replace(UNTIL_SOLVED, steps=2, rows=8))
    one, other, third = (train_on_task(task, seed=seed, recipe=few) for seed in (0, 0, 1))
    weights = [model.embedding.weight.detach() for model in (one, other, third)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_the_circuit_says_what_stands_at_its_link_and_moves_with_it():
    task = AssociativeRecall(pairs=5)
    model, batch = induction_head(task), task.sample(stream(3), 60)
    links = batch.links["induction"]
    assert copy_accuracy(model, batch, links) == 1
    back = links[links[:, 2] > 0]
    edits = {"blocks.1.attn.pattern": follow_links(0, shift_links(back, -1))}
    assert copy_accuracy(model, batch, back, -1, edits) == 1
    assert copy_accuracy(model, batch, back, 0, edits) < 0.5


@pytest.mark.parametrize("offset", [-99, 99])
def test_a_place_outside_the_row_is_refused(offset):
    task = AssociativeRecall()
    batch = task.sample(stream(4), 5)
    with pytest.raises(ValueError, match=f"offset={offset}"):
        copy_accuracy(induction_head(task), batch, batch.links["induction"], offset)


def test_a_module_without_heads_is_refused_with_the_names_that_it_lacks():
    batch = AssociativeRecall().sample(stream(5), 5)
    with pytest.raises(ToylabError, match=r"^Embedding: has no hook points .* blocks\.N\.attn\.pattern.*attn\.z$"):
        survey(torch.nn.Embedding(40, 40), batch)


def test_the_strongest_head_may_stand_beside_heads_without_attention_on_the_link(monkeypatch):
    masses = {0: torch.tensor([0.1, 0.9]), 1: torch.tensor([0.6, 0.6])}
    monkeypatch.setattr("toylab.survey.attention_patterns", lambda model, batch: list(masses))
    monkeypatch.setattr("toylab.survey.link_mass", lambda layer, links: masses[layer])
    batch = AssociativeRecall().sample(stream(0), 4)
    assert strongest_head(torch.nn.Identity(), batch, "induction") == (0, 1)
