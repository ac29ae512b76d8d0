"""Laws of attention scores: those of a slow loop, of chance, and of one layout with many contents."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.probes.patterns import close, one_hot, patterns_and_links, random_pattern, same_layout, some, uniform
from toylab.probes import (
    invariance,
    link_mass,
    mass_by_query,
    peakiness,
    uniform_heads,
    uniform_mass,
)
from toylab.probes.attention import edges_within


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


# Invariance ----------------------------------------------------------------------------------------------------------


def test_invariance_is_one_for_a_peaked_head_that_ignores_content_and_zero_for_one_that_never_looks():
    looks = one_hot(4, 5, same_layout)
    never = one_hot(4, 5, [])
    faint = 0.3 * looks + 0.7 * never  # as steady as the first, but it does not look there
    pattern = torch.stack([looks, never, faint], dim=1)
    assert invariance(pattern, same_layout).tolist() == [1, 0, 0]
    assert invariance(pattern, same_layout, threshold=0.2).tolist() == pytest.approx([1, 0, 1])
    two = same_layout[same_layout[:, 1] < 4]
    at_one_of_two = one_hot(4, 5, two[two[:, 1] == 2])[:, None]
    assert invariance(at_one_of_two, two).tolist() == [1], "a half is not below one half"


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
