"""Equivariances of contextual counting: how counts change when the bits and regions of a string do."""

from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.counting_text import ask, joined, pieces, some
from toylab.tasks import ContextualCounting


@some
@given(pieces(), st.data(), st.randoms(use_true_random=False))
def test_shuffling_the_bits_of_a_piece_leaves_all_counts(cut, data, random):
    task, which = ContextualCounting(), data.draw(st.integers(0, len(cut) - 1))
    shuffled = "".join(random.sample(cut[which], len(cut[which])))
    assert ask(task, joined([*cut[:which], shuffled, *cut[which + 1 :]])) == ask(task, joined(cut))


@some
@given(pieces(), st.data())
def test_swapping_two_regions_swaps_their_counts(cut, data):
    task, regions = ContextualCounting(), len(cut) // 2
    one, other = (data.draw(st.integers(0, regions - 1)) for _ in range(2))
    swapped, counts = list(cut), ask(task, joined(cut))
    for held, a, b in ((swapped, 2 * one + 1, 2 * other + 1), (counts, one, other)):
        held[a], held[b] = held[b], held[a]
    assert ask(task, joined(swapped)) == counts


@some
@given(pieces())
def test_flipping_a_bit_moves_the_count_of_its_own_region_by_one_and_no_other(cut):
    task, text = ContextualCounting(), joined(cut)
    counts = ask(task, text)
    number, inside = 0, False
    for t, char in enumerate(text):
        if char in "[]":
            inside = char == "["
            number += inside
            continue
        flipped = ask(task, f"{text[:t]}{1 - int(char)}{text[t + 1 :]}")
        due = list(counts)
        if inside:
            due[number - 1] += 1 - 2 * int(char)
        assert flipped == due


@some
@given(pieces(), st.data())
def test_a_zero_more_or_less_outside_leaves_all_counts(cut, data):
    which = 2 * data.draw(st.integers(0, len(cut) // 2))
    at = data.draw(st.integers(0, len(cut[which])))
    longer = [*cut[:which], f"{cut[which][:at]}0{cut[which][at:]}", *cut[which + 1 :]]
    assert ask(ContextualCounting(), joined(longer)) == ask(ContextualCounting(), joined(cut))
