"""Laws of attention scores, and the detector tried on the truth: planted patterns, hand-written circuits, controls."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import iteration_head
from toylab.probes import (
    IterationHead,
    find_iteration_head,
    follow_links,
    invariance,
    link_mass,
    mass_by_query,
    peakiness,
    uniform_heads,
    uniform_mass,
)
from toylab.probes.attention import edges_within
from toylab.tasks import ITERATED_MAPS, Parity, Polynomial, WordProblem, stream
from toylab.training.evaluate import held_out, search_iteration_head

some = settings(max_examples=40)


def random_pattern(rng, batch, heads, size):
    """Causal attention of a head with random scores."""
    scores = torch.from_numpy(3 * rng.normal(size=(batch, heads, size, size)))
    future = torch.ones(size, size).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


def uniform(batch, heads, size):
    even = torch.ones(size, size, dtype=torch.float64).tril()
    return (even / even.sum(dim=-1, keepdim=True)).expand(batch, heads, size, size).clone()


@st.composite
def patterns_and_links(draw):
    """A random pattern, and different causal links of which several may leave one query."""
    batch, heads, size = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 7))
    edges = [(row, query, key) for row in range(batch) for query in range(size) for key in range(query + 1)]
    links = draw(st.lists(st.sampled_from(edges), min_size=1, max_size=12, unique=True))
    return random_pattern(np.random.default_rng(draw(st.integers(0, 999))), batch, heads, size), np.array(links)


def close(one, other):
    torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=0, atol=1e-12)


# Scores ------------------------------------------------------------------------------------------------------------


def slow_masses(pattern, links):
    """By head, the attention on linked keys of each linked query, in the order of (row, query)."""
    keys = {}
    for row, query, key in links.tolist():
        keys.setdefault((row, query), []).append(key)
    return [
        [sum(pattern[row, head, query, key].item() for key in keys[row, query]) for row, query in sorted(keys)]
        for head in range(pattern.shape[1])
    ]


@some
@given(patterns_and_links(), st.floats(0.05, 0.95))
def test_the_scores_are_those_of_a_slow_loop(drawn, threshold):
    pattern, links = drawn
    masses = slow_masses(pattern, links)
    close(mass_by_query(pattern, links).T, torch.tensor(masses, dtype=torch.float64))
    close(link_mass(pattern, links), torch.tensor([sum(one) / len(one) for one in masses], dtype=torch.float64))
    shares = [sum(mass > threshold for mass in one) / len(one) for one in masses]
    close(peakiness(pattern, links, threshold), torch.tensor(shares, dtype=torch.float64))


@some
@given(patterns_and_links(), st.randoms(use_true_random=False))
def test_the_order_of_the_links_and_their_type_do_not_matter(drawn, random):
    pattern, links = drawn
    shuffled = links[random.sample(range(len(links)), len(links))]
    close(mass_by_query(pattern, shuffled), mass_by_query(pattern, links))
    close(link_mass(pattern, torch.from_numpy(links)), link_mass(pattern, links))
    assert uniform_mass(shuffled) == pytest.approx(uniform_mass(links), abs=1e-12)


@some
@given(patterns_and_links(), st.randoms(use_true_random=False))
def test_permuting_heads_permutes_scores_and_permuting_rows_with_their_links_changes_none(drawn, random):
    pattern, links = drawn
    batch, heads = pattern.shape[:2]
    order = random.sample(range(heads), heads)
    rows = random.sample(range(batch), batch)
    renamed = links.copy()
    renamed[:, 0] = np.argsort(rows)[links[:, 0]]
    for score in (link_mass, peakiness):
        close(score(pattern[:, order], links), score(pattern, links)[order])
        close(score(pattern[rows], renamed), score(pattern, links))


@some
@given(patterns_and_links())
def test_linking_every_key_gives_all_attention_and_one_that_is_not_read_gives_none(drawn):
    pattern, links = drawn
    row, query = links[0, :2].tolist()
    close(
        link_mass(pattern, np.array([(row, query, key) for key in range(query + 1)])),
        torch.ones_like(pattern[0, :, 0, 0]),
    )
    unread = pattern.clone()
    unread[row, :, query, links[0, 2]] = 0
    assert (link_mass(unread, links[:1]) == 0).all()


@some
@given(patterns_and_links())
def test_uniform_mass_is_the_score_of_a_uniform_causal_head(drawn):
    pattern, links = drawn
    batch, heads, size, _ = pattern.shape
    close(link_mass(uniform(batch, heads, size), links), torch.full((heads,), uniform_mass(links), dtype=torch.float64))
    flattened = uniform_heads(0)(pattern)
    assert link_mass(flattened, links)[0].item() == pytest.approx(uniform_mass(links), abs=1e-12)


def test_scores_worked_out_by_hand():
    pattern = torch.tensor([[[[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.125, 0.375]]]], dtype=torch.float64)
    links = np.array([[0, 1, 0], [0, 2, 1], [0, 2, 2]])
    assert mass_by_query(pattern, links)[:, 0].tolist() == [0.25, 0.5]
    assert link_mass(pattern, links).tolist() == [0.375]
    assert peakiness(pattern, links).tolist() == [0.0], "half is not more than half"
    assert peakiness(pattern, links, 0.4).tolist() == [0.5]
    assert peakiness(pattern, links, 0.2).tolist() == [1.0]
    assert uniform_mass(links) == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize("score", [mass_by_query, link_mass, peakiness, invariance])
def test_no_links_and_links_outside_the_pattern_raise(score):
    pattern = uniform(2, 1, 3)
    with pytest.raises(ValueError, match="none were given"):
        score(pattern, np.zeros((0, 3), dtype=np.int64))
    for edge in ([2, 1, 0], [0, 3, 0], [0, 1, 3], [0, 1, -1], [-1, 1, 0], [0, -1, 0]):
        with pytest.raises(ValueError, match=r"outside the pattern .* \(2, 3, 3\)"):
            score(pattern, np.array([[0, 0, 0], edge]))


def test_chance_without_links_raises_as_the_scores_do():
    with pytest.raises(ValueError, match="links"):
        uniform_mass(np.zeros((0, 3), dtype=np.int64))


# Invariance --------------------------------------------------------------------------------------------------------

same_layout = np.array([(row, query, query - 1) for row in range(4) for query in (2, 3, 4)])


def one_hot(batch, size, edges):
    """A head that reads itself, but at linked queries reads the linked key."""
    pattern = torch.eye(size, dtype=torch.float64).repeat(batch, 1, 1)
    for row, query, key in np.asarray(edges).tolist():
        pattern[row, query] = 0
        pattern[row, query, key] = 1
    return pattern


def test_invariance_is_one_for_a_peaked_head_that_ignores_content_and_zero_for_one_that_never_looks():
    looks = one_hot(4, 5, same_layout)
    never = one_hot(4, 5, [])
    faint = 0.3 * looks + 0.7 * never  # as steady as the first, but it does not look there
    pattern = torch.stack([looks, never, faint], dim=1)
    assert invariance(pattern, same_layout).tolist() == [1, 0, 0]
    assert invariance(pattern, same_layout, threshold=0.2).tolist() == pytest.approx([1, 0, 1])


def test_invariance_falls_by_the_spread_over_rows():
    looks, never = one_hot(4, 5, same_layout), one_hot(4, 5, [])
    weight = torch.tensor([1.0, 0.6, 1.0, 0.6], dtype=torch.float64)[:, None, None]
    mixed = (weight * looks + (1 - weight) * never)[:, None]
    assert invariance(mixed, same_layout).item() == pytest.approx(1 - 0.2)
    slow = 1 - np.mean([np.std(mixed[:, 0, query, query - 1].numpy()) for query in (2, 3, 4)])
    assert invariance(mixed, same_layout).item() == pytest.approx(slow)


@given(st.integers(0, 999))
def test_a_repeated_row_is_perfectly_invariant_wherever_it_is_peaked(seed):
    pattern = random_pattern(np.random.default_rng(seed), 1, 3, 5).expand(4, 3, 5, 5)
    peaked = peakiness(pattern, same_layout) >= 0.5
    close(invariance(pattern, same_layout), peaked.double())


@pytest.mark.parametrize(
    "links",
    [
        [(0, 2, 1), (1, 2, 0)],
        [(0, 2, 1), (1, 3, 1)],
        [(0, 2, 1), (1, 2, 1), (1, 3, 1)],
        [(0, 2, 1)],
    ],
)
def test_rows_with_different_links_have_no_invariance(links):
    with pytest.raises(ValueError, match="rows differ"):
        invariance(uniform(2, 1, 4), np.array(links))


# The detector on planted patterns ------------------------------------------------------------------------------------

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
    found = find_iteration_head(*planted({(0, 0): END, distraction: ["carry"], (2, 0): TURN}))
    assert found.found, found.misses
    assert (found.layer, found.head) == (2, 0)


def blurred(patterns, weight):
    """Every head mixed with a uniform one."""
    return {
        n: [weight * layer + (1 - weight) * uniform(*layer.shape[:3]) for layer in layers]
        for n, layers in patterns.items()
    }


def test_the_bars_decide():
    patterns, links = planted({(0, 0): END, (1, 0): TURN})
    soft = blurred(patterns, 0.6)
    assert find_iteration_head(soft, links).found, "attention of .6 is peaked: above one half"
    assert not find_iteration_head(blurred(patterns, 0.3), links).found
    assert not find_iteration_head(soft, links, end_of_input_bar=0.7).found
    # A head that works at two lengths of three.
    mostly = {4: patterns[4], 6: patterns[6], 8: blurred(patterns, 0)[8]}
    assert len(find_iteration_head(mostly, links, stop_bar=0.7).misses) == 2
    assert find_iteration_head(mostly, links, carry_bar=0.6, stop_bar=0.6).found
    assert not find_iteration_head(mostly, links, carry_bar=0.7, stop_bar=0.6).found
    assert not find_iteration_head(mostly, links, carry_bar=0.6, stop_bar=0.7).found


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
    examples = held_out(task, 0, range(3, task.longest + 1), rows=4)
    assert len(examples) > 1
    found = search_iteration_head(iteration_head(task), examples)
    assert found == IterationHead(1, 0, 1.0, 1.0, 1.0, (0, 0), ())


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary", "alibi", "none"])
@pytest.mark.parametrize("seed", range(3))
def test_a_model_of_random_weights_is_rejected(positions, seed):
    task = Polynomial(lengths=(1, 8))
    model = Transformer.for_task(task, ModelConfig(layers=3, heads=2, width=16, positions=positions), seed=seed)
    found = search_iteration_head(model, held_out(task, 0, range(4, 9), rows=8))
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
    examples = held_out(task, 0, (4, 6, 8), rows=4)
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


# Where there is no answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("score", [mass_by_query, link_mass, peakiness, invariance])
def test_links_of_any_whole_type_are_places(score, kind):
    pattern = random_pattern(np.random.default_rng(0), 4, 2, 5)
    for links in (same_layout.astype(kind), torch.from_numpy(same_layout.astype(kind))):
        close(score(pattern, links), score(pattern, same_layout))
        assert uniform_mass(links) == uniform_mass(same_layout)


def test_links_that_are_no_places_are_refused():
    pattern, links = uniform(1, 1, 3), np.array([[0, 1, 0.5]])
    for call in (lambda: inspect.unwrap(edges_within)(pattern, links), lambda: inspect.unwrap(uniform_mass)(links)):
        with pytest.raises(ValueError, match=r"links: holds 0.5 at \[0, 2\]; every entry must be a whole number"):
            call()
    with pytest.raises(ValueError, match=r"links: holds -1 at \[0, 1\]; every entry must be at least 0"):
        uniform_mass(np.array([[0, -1, 0]]))


def test_a_single_row_has_no_spread_and_no_invariance():
    with pytest.raises(ValueError, match="rows=1: must be at least 2"):
        invariance(uniform(1, 1, 5), same_layout[same_layout[:, 0] == 0])


@pytest.mark.parametrize(("layers", "said"), [((0, 0), r"\[0\]"), ((2, 1), r"\[1, 2\]")])
def test_lengths_with_different_layers_or_none_are_refused(layers, said):
    patterns, links = planted({(1, 0): END}, LENGTHS[:2], layers=2)
    with pytest.raises(ValueError, match=f"patterns: of {said} layers; give as many for every length, at least one"):
        find_iteration_head({n: patterns[n][:k] for n, k in zip(patterns, layers, strict=True)}, links)
