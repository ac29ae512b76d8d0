"""The detector of iteration heads tried on the truth: planted patterns, hand-written circuits, controls."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.probes.patterns import one_hot, uniform
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import iteration_head
from toylab.probes import (
    IterationHead,
    find_iteration_head,
    follow_links,
    peakiness,
    uniform_mass,
)
from toylab.tasks import ITERATED_MAPS, Parity, Polynomial, WordProblem, stream
from toylab.training.evaluate import by_length, search_iteration_head

LENGTHS = (4, 6, 8)


def batch_of(length, rows=3):
    return Parity().batch(np.zeros((rows, length), dtype=np.int64), np.full(rows, length))


def planted(parts, lengths=LENGTHS, layers=3, heads=2):
    """Uniform heads everywhere but at {(layer, head): link names or a function of the links}; the links beside them."""
    patterns, links = {}, {}
    for length in lengths:
        batch = batch_of(length)
        rows, size = batch.tokens.shape
        stack = [uniform(rows, heads, size) for _ in range(layers)]
        for (layer, head), part in parts.items():
            edges = part(batch) if callable(part) else np.concatenate([batch.links[name] for name in part])
            stack[layer][:, head] = one_hot(rows, size, edges)
        patterns[length], links[length] = stack, batch.links
    return patterns, links


END, TURN = ["end of input"], ["carry", "stop"]


@pytest.mark.parametrize("first", [(0, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("second", [(1, 0), (2, 0), (2, 1)])
def test_a_planted_circuit_is_found_wherever_it_is(first, second):
    found = find_iteration_head(*planted({first: END, second: TURN}))
    if first[0] < second[0]:
        assert found == IterationHead(*second, 1.0, 1.0, 1.0, first, ())
        assert found.found
    else:
        assert (found.layer, found.head) == second
        assert not found.found


@given(st.permutations(LENGTHS), st.sets(st.sampled_from(LENGTHS), min_size=2))
def test_the_order_and_number_of_lengths_do_not_matter(order, kept):
    patterns, links = planted({(0, 1): END, (1, 0): TURN})
    some_lengths = [length for length in order if length in kept]
    found = find_iteration_head({n: patterns[n] for n in some_lengths}, {n: links[n] for n in some_lengths})
    assert found == IterationHead(1, 0, 1.0, 1.0, 1.0, (0, 1), ())


@pytest.mark.parametrize("lengths", [(4,), ()])
def test_fewer_than_two_lengths_raise(lengths):
    with pytest.raises(ValueError, match="at least two"):
        find_iteration_head(*planted({(0, 0): END, (1, 0): TURN}, lengths))


def test_lengths_that_differ_between_patterns_and_links_raise():
    patterns, links = planted({(0, 0): END, (1, 0): TURN})
    with pytest.raises(ValueError, match="same lengths"):
        find_iteration_head(patterns, {n: links[n] for n in LENGTHS[:2]})


def offset_head(offset):
    """A head that looks a fixed distance back, and at its own place where there is nothing."""
    return lambda batch: np.array(
        [(row, q, q - offset) for row in range(len(batch)) for q in range(offset, batch.tokens.shape[1])]
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_at_one_length_a_fixed_offset_is_the_diagonal_and_at_several_it_is_rejected(length):
    # The reason why one length is refused: x_t stands exactly L places before the position where s_t is due.
    patterns, links = planted({(1, 0): offset_head(length)}, [length])
    assert peakiness(patterns[length][1], links[length]["carry"])[0] == 1
    found = find_iteration_head(*planted({(0, 0): END, (1, 0): offset_head(length)}))
    assert not found.found
    assert found.carry < 0.7


def test_uniform_heads_are_rejected():
    found = find_iteration_head(*planted({}))
    assert not found.found
    assert found.carry == 0
    assert any("no head is peaked" in miss for miss in found.misses)


@pytest.mark.parametrize("first", [(1, 1), (2, 0), (2, 1)])
def test_an_end_of_input_head_in_the_same_layer_or_a_later_one_is_too_late(first):
    found = find_iteration_head(*planted({first: END, (1, 0): TURN}))
    assert (found.layer, found.head) == (1, 0)
    assert found.misses == (f"no earlier head finds the end of the input: {found.end_of_input:.2f}, below 0.25",)
    assert found.end_of_input_at[0] == 0


def test_an_iteration_head_in_the_first_layer_is_rejected():
    found = find_iteration_head(*planted({(0, 0): END, (0, 1): TURN}))
    assert (found.layer, found.head, found.end_of_input, found.end_of_input_at) == (0, 1, 0.0, None)
    assert len(found.misses) == 1
    assert "first layer" in found.misses[0]


def test_a_head_that_does_not_read_the_end_to_stop_is_rejected():
    found = find_iteration_head(*planted({(0, 0): END, (1, 1): ["carry"]}))
    assert (found.layer, found.head, found.carry, found.stop) == (1, 1, 1.0, 0.0)
    assert len(found.misses) == 1
    assert "to stop: 0.00, below 0.5" in found.misses[0]


@pytest.mark.parametrize("distraction", [(1, 0), (1, 1), (0, 1)])
def test_a_head_that_meets_every_condition_is_found_beside_one_that_does_not(distraction):
    # "Search all layers and heads": a head with an equal diagonal, but no stop rule, must not hide the true one.
    patterns, links = planted({(0, 0): END, distraction: ["carry"], (2, 0): TURN})
    found = find_iteration_head(patterns, links)
    assert found.found, found.misses
    assert (found.layer, found.head) == (2, 0)
    # Nor must one with a better diagonal.
    patterns[8][2] = uniform(*patterns[8][2].shape[:3])
    found = find_iteration_head(patterns, links, carry_threshold=0.6)
    assert (found.found, found.layer, found.head, found.carry) == (True, 2, 0, pytest.approx(2 / 3))


def blurred(patterns, weight):
    """Every head mixed with a uniform one."""
    return {
        n: [weight * layer + (1 - weight) * uniform(*layer.shape[:3]) for layer in layers]
        for n, layers in patterns.items()
    }


def test_the_bars_decide():
    patterns, links = planted({(0, 0): END, (1, 0): TURN})
    bars = {"carry_threshold": 1.0, "stop_threshold": 1.0, "end_of_input_threshold": 1.0}
    assert find_iteration_head(patterns, links, **bars).found, "a score at its bar meets it"
    soft = blurred(patterns, 0.6)
    assert find_iteration_head(soft, links).found, "attention of .6 is peaked: above one half"
    assert not find_iteration_head(blurred(patterns, 0.3), links).found
    assert not find_iteration_head(soft, links, end_of_input_threshold=0.7).found
    # A head that works at two lengths of three.
    mostly = {4: patterns[4], 6: patterns[6], 8: blurred(patterns, 0)[8]}
    assert len(find_iteration_head(mostly, links, stop_threshold=0.7).misses) == 2
    assert find_iteration_head(mostly, links, carry_threshold=0.6, stop_threshold=0.6).found
    assert not find_iteration_head(mostly, links, carry_threshold=0.7, stop_threshold=0.6).found
    assert not find_iteration_head(mostly, links, carry_threshold=0.6, stop_threshold=0.7).found


def test_the_scores_are_means_over_lengths():
    patterns, links = planted({(0, 0): END, (1, 0): TURN})
    flat, _ = planted({})
    found = find_iteration_head({4: patterns[4], 6: patterns[6], 8: flat[8]}, links)
    assert found.carry == pytest.approx(2 / 3)
    assert found.stop == pytest.approx(2 / 3)
    assert found.end_of_input == pytest.approx((2 + uniform_mass(links[8]["end of input"])) / 3)


# The detector on circuits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", [*(kind(lengths=(1, 8)) for kind in ITERATED_MAPS), WordProblem(group="A5", lengths=(1, 5))]
)
def test_the_hand_written_circuit_of_every_task_is_found(task):
    examples = by_length(task, 0, range(3, task.max_length + 1, 2), rows=4)
    assert len(examples) > 1
    found = search_iteration_head(iteration_head(task), examples)
    assert found == IterationHead(1, 0, 1.0, 1.0, 1.0, (0, 0), ())


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary", "alibi", "none"])
@pytest.mark.parametrize("seed", range(3))
def test_a_model_of_random_weights_is_rejected(positions, seed):
    task = Polynomial(lengths=(1, 8))
    model = Transformer.for_task(task, ModelConfig(layers=3, heads=2, width=16, positions=positions), seed=seed)
    found = search_iteration_head(model, by_length(task, 0, (4, 6, 8), rows=6))
    assert not found.found
    assert found.carry < 0.5


def without_query(layer):
    def cut(model):
        model.blocks[layer].attn.query.weight.zero_()
        model.blocks[layer].attn.query.bias.zero_()

    return cut


def without_subtraction(model):
    model.blocks[0].mlp.down.weight.zero_()


@pytest.mark.parametrize("cut", [without_query(0), without_query(1), without_subtraction])
def test_a_circuit_with_one_part_cut_out_is_rejected(cut):
    task = Polynomial(lengths=(1, 8))
    model = iteration_head(task)
    examples = by_length(task, 0, (4, 6, 8), rows=4)
    assert search_iteration_head(model, examples).found
    with torch.no_grad():
        cut(model)
    assert not search_iteration_head(model, examples).found


def test_a_second_head_that_reads_x_t_is_named_as_a_backup_and_grouped_by_layer():
    task = Polynomial(lengths=(1, 6))
    batches = {n: task.sample(stream(0, n), 4, length=n) for n in (4, 6)}
    patterns = {}
    for n, batch in batches.items():
        size = batch.tokens.shape[1]
        layers = [torch.ones(4, 3, size, size).tril() / torch.arange(1, size + 1)[:, None] for _ in range(2)]
        layers[0] = follow_links(1, batch.links["end of input"])(layers[0])
        both = np.concatenate([batch.links["carry"], batch.links["stop"]])
        layers[1] = follow_links([0, 2], both)(layers[1])
        patterns[n] = layers
    found = find_iteration_head(patterns, {n: batch.links for n, batch in batches.items()})
    assert found.found
    assert {(found.layer, found.head), *found.backups} == {(1, 0), (1, 2)}
    assert found.by_layer == {1: [0, 2]}


@pytest.mark.parametrize(("lengths", "backups"), [((4, 5, 6, 7), ((1, 1),)), ((4, 5, 6, 7, 8), ())])
def test_a_backup_reads_x_t_in_a_quarter_of_the_steps_at_least(lengths, backups):
    # The second head does so at one length alone.
    patterns, links = planted({(0, 0): END, (1, 0): TURN, (1, 1): ["carry"]}, lengths)
    for length in lengths[1:]:
        patterns[length][1][:, 1] = uniform(*patterns[length][1].shape[:3])[:, 1]
    assert find_iteration_head(patterns, links).backups == backups


# Where there is no answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "said"), [((0, 0), r"\[0\]"), ((2, 1), r"\[1, 2\]")])
def test_lengths_with_different_layers_or_none_are_refused(layers, said):
    patterns, links = planted({(1, 0): END}, LENGTHS[:2], layers=2)
    with pytest.raises(ValueError, match=f"patterns: of {said} layers; give as many for every length, at least one"):
        find_iteration_head({n: patterns[n][:k] for n, k in zip(patterns, layers, strict=True)}, links)
