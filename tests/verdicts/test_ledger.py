"""Laws of the ledger of seeds: each seed has one row, and a board rests on one row that no choice was made on."""

import itertools

import pytest

from toylab.runs.scoreboard import published_scoreboard
from toylab.verdicts.ledger import DESIGN, LEDGER, purposes, seeds_in_words


def test_no_seed_is_in_two_rows():
    for one, other in itertools.combinations(LEDGER, 2):
        assert not set(one) & set(other)


def test_the_seeds_of_the_published_board_lie_in_one_row_of_a_scoreboard_or_a_rehearsal():
    seeds = {seed for standing in published_scoreboard() for claim in standing.claims for seed in claim.seeds}
    (row,) = [row for row in LEDGER if seeds & set(row)]
    assert seeds <= set(row)
    assert LEDGER[row].startswith(("scoreboard", "rehearsal"))


@pytest.mark.parametrize("seed", range(10))
def test_any_seed_below_ten_is_marked_as_one_of_design(seed):
    assert purposes([seed]) == [DESIGN]
    assert DESIGN in seeds_in_words([310, seed, 5000])


def test_seeds_are_told_with_what_they_are_for():
    assert seeds_in_words(range(6)) == "Seeds 0 to 5: design seeds."
    assert seeds_in_words([312, 310, 311, 310]) == "Seeds 310 to 312: rehearsal."
    assert seeds_in_words([9, 10, 20]) == "Seeds 9 to 10, 20: design seeds, rehearsal."
    assert seeds_in_words([5000]) == "Seeds 5000: seeds of no row."
    assert seeds_in_words([]) == ""
