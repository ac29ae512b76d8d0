"""Laws of causal edits: they act where they are told and nowhere else, and on a known circuit do what theory says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.planted.handwritten import iteration_head
from toylab.probes import edit, follow_links, link_mass, shift_links, uniform_heads, uniform_mass, watch, zero_heads
from toylab.tasks import ITERATED_MAPS, Polynomial, WordProblem
from toylab.training.evaluate import accuracy, by_length, predict_tokens

some = settings(max_examples=25)
SIZE = 7
EVERY = list(range(SIZE))

# Ways to name queries, each with the positions it means.
QUERIES = [
    (slice(None), EVERY),
    (slice(3, None), [3, 4, 5, 6]),
    (slice(0, 2), [0, 1]),
    (slice(-2, None), [5, 6]),
    (slice(5, 2), []),
    ([1, 4], [1, 4]),
    ([6], [6]),
    ([], []),
]
chosen_queries = st.sampled_from(QUERIES)
chosen_heads = st.one_of(st.integers(0, 2), st.lists(st.integers(0, 2), unique=True, max_size=3))


def heads_of(heads):
    return [heads] if isinstance(heads, int) else list(heads)


def random_pattern(seed, batch=2, heads=3, queries=SIZE, keys=SIZE):
    scores = torch.randn(batch, heads, queries, keys, generator=torch.Generator().manual_seed(seed)).double()
    return scores.masked_fill(torch.ones(queries, keys).triu(keys - queries + 1).bool(), -torch.inf).softmax(dim=-1)


def random_z(seed):
    return torch.randn(2, SIZE, 3, 4, generator=torch.Generator().manual_seed(seed))


edges = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)).map(
        lambda e: (e[0], max(e[1:]), min(e[1:]))
    ),
    min_size=1,
    max_size=12,
    unique=True,
).map(np.array)


# Each edit by itself -----------------------------------------------------------------------------------------------


@some
@given(chosen_heads, chosen_queries, st.integers(0, 99))
def test_zeroing_heads_leaves_every_other_head_and_query_as_it_was(heads, named, seed):
    queries, places = named
    z = random_z(seed)
    kept = z.clone()
    edited = zero_heads(heads, queries)(z)
    for query in EVERY:
        for head in range(3):
            if query in places and head in heads_of(heads):
                assert (edited[:, query, head] == 0).all()
            else:
                assert torch.equal(edited[:, query, head], z[:, query, head])
    assert torch.equal(z, kept), "the edit wrote into what it was given"


@some
@given(chosen_heads, chosen_queries, st.integers(0, 99))
def test_flattening_heads_leaves_every_other_head_and_query_as_it_was(heads, named, seed):
    queries, places = named
    pattern = random_pattern(seed)
    kept = pattern.clone()
    edited = uniform_heads(heads, queries)(pattern)
    for query in EVERY:
        even = torch.tensor([1 / (query + 1)] * (query + 1) + [0.0] * (SIZE - query - 1), dtype=torch.float64)
        for head in range(3):
            if query in places and head in heads_of(heads):
                torch.testing.assert_close(edited[:, head, query], even.expand(2, SIZE), rtol=0, atol=1e-15)
            else:
                assert torch.equal(edited[:, head, query], pattern[:, head, query])
    assert torch.equal(pattern, kept), "the edit wrote into what it was given"


@pytest.mark.parametrize("queries", [(1, 4), (2,), range(2, 5), [1, 4]])
def test_a_tuple_a_range_and_a_list_name_the_same_queries(queries):
    pattern, z = random_pattern(0), random_z(0)
    assert torch.equal(uniform_heads(1, queries)(pattern), uniform_heads(1, list(queries))(pattern))
    assert torch.equal(zero_heads(1, queries)(z), zero_heads(1, list(queries))(z))


EDITS = [
    (zero_heads, random_z),
    (uniform_heads, random_pattern),
    (lambda heads: follow_links(heads, np.array([[0, 3, 1], [1, 2, 2]])), random_pattern),
]


@pytest.mark.parametrize(("make", "passed"), EDITS)
@pytest.mark.parametrize(
    ("named", "heads"),
    [
        (np.int64(1), [1]),
        (torch.tensor(2), [2]),
        (np.array([0, 2]), [0, 2]),
        (torch.tensor([0, 2], dtype=torch.int32), [0, 2]),
        ([np.int64(2), 0], [2, 0]),
        (range(2), [0, 1]),
        ([True, False, True], [0, 2]),
        (np.array([False, True, False]), [1]),
        (torch.tensor([False, False, False]), []),
    ],
)
def test_heads_are_named_by_numbers_and_masks_of_every_kind(make, passed, named, heads):
    assert torch.equal(make(named)(passed(0)), make(heads)(passed(0)))


@pytest.mark.parametrize(("make", "passed"), EDITS)
@pytest.mark.parametrize(
    ("heads", "said"),
    [
        (3, "heads: 3 is none of the 3 here; must be from 0 to 2"),
        ([0, -1], "heads: -1 is none of the 3 here"),
        ([0, 1, 1], r"heads=\[0, 1, 1\]: names one twice; .* a mask of booleans"),
        (np.array([0.5]), "heads: holds 0.5 at .* every entry must be a whole number"),
        ([True, False], r"heads: is a mask of shape \(2,\); must have one entry for each of 3"),
        (True, r"heads: is a mask of shape \(\)"),
    ],
)
def test_heads_that_are_not_there_are_refused(make, passed, heads, said):
    with pytest.raises(ValueError, match=said):
        make(heads)(passed(0))


@pytest.mark.parametrize(("make", "passed"), EDITS[:2])
def test_queries_are_named_by_numbers_and_masks_of_every_kind_and_refused_where_there_are_none(make, passed):
    mask = np.arange(SIZE) % 3 == 1
    expected = make(1, [1, 4])(passed(0))
    for queries in (mask, torch.from_numpy(mask), mask.tolist(), np.array([4, 1]), [1, 4 - SIZE]):
        assert torch.equal(make(1, queries)(passed(0)), expected)
    for queries, said in [
        ([SIZE], f"queries: {SIZE} is none of the {SIZE} here; must be from -{SIZE} to {SIZE - 1}"),
        (mask.astype(int), "names one twice; name each once, or give a mask of booleans"),
        ([1, 1 - SIZE], "names one twice"),
        (mask[1:], rf"queries: is a mask of shape \({SIZE - 1},\); must have one entry for each of {SIZE}"),
    ]:
        with pytest.raises(ValueError, match=said):
            make(1, queries)(passed(0))


@some
@given(st.integers(1, 3), st.integers(3, 6), st.integers(0, 99))
def test_a_flat_pattern_of_the_last_queries_is_the_end_of_the_whole_one(queries, keys, seed):
    # So that the edit serves inside `generate`, where only new queries are computed.
    whole = uniform_heads(0)(random_pattern(seed, queries=keys, keys=keys))
    last = uniform_heads(0)(random_pattern(seed, queries=queries, keys=keys))
    assert torch.equal(last[:, 0], whole[:, 0, -queries:])


@some
@given(edges, st.integers(0, 2), st.integers(0, 99))
def test_a_head_that_follows_links_reads_all_and_only_what_they_name(links, head, seed):
    pattern = random_pattern(seed)
    kept = pattern.clone()
    edited = follow_links(head, links)(pattern)
    assert link_mass(edited, links)[head].item() == pytest.approx(1, abs=1e-12)
    linked = {(row, query) for row, query, _ in links.tolist()}
    for row in range(2):
        for query in EVERY:
            keys = [k for r, q, k in links.tolist() if (r, q) == (row, query)]
            for other in range(3):
                if other == head and (row, query) in linked:
                    expected = [1 / len(keys) if key in keys else 0 for key in EVERY]
                    assert edited[row, head, query].tolist() == pytest.approx(expected)
                else:
                    assert torch.equal(edited[row, other, query], pattern[row, other, query])
    assert torch.equal(pattern, kept), "the edit wrote into what it was given"


@some
@given(edges, chosen_heads, chosen_queries, st.integers(0, 99))
def test_edited_patterns_still_sum_to_one_and_see_no_future(links, heads, named, seed):
    pattern = random_pattern(seed)
    future = torch.ones(SIZE, SIZE).triu(1).bool()
    for change in (uniform_heads(heads, named[0]), follow_links(1, links)):
        edited = change(pattern)
        torch.testing.assert_close(edited.sum(dim=-1), torch.ones(2, 3, SIZE).double(), rtol=0, atol=1e-12)
        assert (edited[..., future] == 0).all()


@some
@given(edges, chosen_heads, chosen_queries, st.integers(0, 99))
def test_an_edit_made_twice_is_the_edit_made_once(links, heads, named, seed):
    pattern, z = random_pattern(seed), random_z(seed)
    for change, given_ in [
        (zero_heads(heads, named[0]), z),
        (uniform_heads(heads, named[0]), pattern),
        (follow_links(2, links), pattern),
    ]:
        assert torch.equal(change(change(given_)), change(given_))


@some
@given(edges, st.integers(-3, 3), st.integers(-3, 3))
def test_moving_links_moves_the_keys_alone_and_moves_add_up(links, one, two):
    there = shift_links(links, one)
    assert np.array_equal(there[:, :2], links[:, :2])
    assert np.array_equal(there[:, 2] - links[:, 2], np.full(len(links), one))
    assert np.array_equal(shift_links(there, two), shift_links(links, one + two))
    assert np.array_equal(shift_links(there, -one), links)
    assert np.array_equal(shift_links(torch.from_numpy(links), one), there)


@pytest.mark.parametrize("edge", [[0, 3, -1], [0, 3, SIZE], [2, 3, 0], [-1, 3, 0], [0, SIZE, 0], [0, -1, 0]])
def test_links_that_point_outside_the_pattern_raise(edge):
    # A key of -1 would otherwise be the last one: `shift_links` makes such links, and the head would read the future.
    change = follow_links(0, np.array([[0, 1, 0], edge]))
    with pytest.raises(ValueError, match="outside the pattern"):
        change(random_pattern(0))


def test_gradients_flow_through_every_edit():
    links = np.array([[0, 3, 1], [0, 3, 2], [1, 5, 0]])
    for change, passed in [
        (zero_heads(0, [2]), random_z(0)),
        (uniform_heads([0, 1], slice(3, None)), random_pattern(0)),
        (follow_links(0, links), random_pattern(0)),
    ]:
        passed.requires_grad_(True)
        weights = torch.randn(passed.shape, generator=torch.Generator().manual_seed(1)).to(passed)
        (slope,) = torch.autograd.grad((weights * change(passed)).sum(), passed)
        touched = ~change(torch.full_like(passed, torch.nan)).isnan()
        assert touched.any()
        assert torch.equal(slope, weights.masked_fill(touched, 0))


# On circuits whose mechanism is known --------------------------------------------------------------------------------

CIRCUITS = [*(kind(lengths=(1, 8)) for kind in ITERATED_MAPS), WordProblem(group="A5", lengths=(1, 5))]
every_circuit = pytest.mark.parametrize("task", CIRCUITS, ids=lambda task: f"{task.name} {task.values}")
Z, PATTERN = "blocks.1.attn.z", "blocks.1.attn.pattern"


def examples_of(task):
    return by_length(task, 0, range(task.max_length, 3, -2), rows=6)


def answers(batch):
    return slice(int(batch.labels["length"][0]) + 1, None)


def inputs(batch):
    return slice(0, int(batch.labels["length"][0]) + 1)


@every_circuit
def test_the_circuit_needs_its_head_where_answers_are_written_and_only_there(task):
    model, examples = iteration_head(task), examples_of(task)
    assert accuracy(model, examples).sequence == 1
    assert accuracy(model, examples, lambda b: {Z: zero_heads(0, answers(b))}).sequence == 0
    assert accuracy(model, examples, lambda b: {PATTERN: uniform_heads(0, answers(b))}).sequence == 0
    assert accuracy(model, examples, lambda b: {Z: zero_heads(0, inputs(b))}).sequence == 1
    assert accuracy(model, examples, lambda b: {PATTERN: uniform_heads(0, inputs(b))}).sequence == 1


@every_circuit
def test_edits_on_the_inputs_change_no_bit_of_the_answers(task):
    model = iteration_head(task)
    batch = examples_of(task)[task.max_length]
    tokens = torch.from_numpy(batch.tokens)
    with torch.no_grad():
        before = model(tokens)[:, answers(batch)]
        with edit(model, {Z: zero_heads(0, inputs(batch))}):
            assert torch.equal(model(tokens)[:, answers(batch)], before)


@every_circuit
def test_the_links_are_enough_to_work_and_the_first_head_matters_only_through_the_second(task):
    model, examples = iteration_head(task), examples_of(task)

    def ideal(batch):
        return {PATTERN: follow_links(0, np.concatenate([batch.links["carry"], batch.links["stop"]]))}

    def first_off(batch):
        return {"blocks.0.attn.z": zero_heads(0)}

    assert accuracy(model, examples, ideal).sequence == 1
    assert accuracy(model, examples, first_off).sequence == 0
    assert accuracy(model, examples, lambda batch: first_off(batch) | ideal(batch)).sequence == 1


@every_circuit
def test_steering_the_head_one_input_further_gives_exactly_the_map_of_the_next_input(task):
    model = iteration_head(task)
    for length, batch in examples_of(task).items():
        links = batch.links["carry"]
        links = links[links[:, 2] < length]  # there is no input after the last
        said = predict_tokens(model, batch, {PATTERN: follow_links(0, shift_links(links, 1))})
        usual = predict_tokens(model, batch)
        for row, tokens in enumerate(batch.tokens.tolist()):
            for query in range(length + 1, 2 * length):
                x = np.array([tokens[query - length + 1]])
                first = query == length + 1
                due = task.first_states(x) if first else task.step(np.array([tokens[query]]), x)
                assert said[row, query] == due.item()
        rest = slice(2 * length, None)
        assert torch.equal(said[:, rest], usual[:, rest]), "queries without a link were steered too"


@given(st.integers(-2, 3))
@settings(max_examples=6)
def test_steering_by_any_distance_reads_the_input_that_far_away(by):
    task = Polynomial(lengths=(1, 8))
    batch = examples_of(task)[8]
    links = batch.links["carry"]
    links = links[(links[:, 2] + by >= 1) & (links[:, 2] + by <= 8) & (links[:, 2] > 1)]
    said = predict_tokens(iteration_head(task), batch, {PATTERN: follow_links(0, shift_links(links, by))})
    row, query, key = shift_links(links, by).T
    expected = task.step(batch.tokens[row, query], batch.tokens[row, key])
    assert np.array_equal(said.numpy()[row, query], expected)


def test_a_flattened_head_of_a_model_scores_chance():
    task = Polynomial(lengths=(1, 8))
    batch = examples_of(task)[6]
    with edit(model := iteration_head(task), {PATTERN: uniform_heads(0)}), watch(model, PATTERN) as seen:
        model(torch.from_numpy(batch.tokens))
    links = batch.links["carry"]
    assert link_mass(seen[PATTERN], links).item() == pytest.approx(uniform_mass(links), abs=1e-6)
