"""Laws of the rule that decides: exact errors, looks that stand, and criteria met by whole intervals."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.calibration.intervals import ERROR_LIMIT, SIZES_OF_RULES, one_sided_errors, seed_distributions, share_error
from toylab.verdicts.criterion import above, at_least, at_most, below, between
from toylab.verdicts.decision import LEVEL, LOOKS, Look, Plan, decide, decide_at
from toylab.verdicts.intervals import median_interval, share_interval

CRITERIA = (at_least, above, at_most, below)
numbers = st.floats(-100, 100)


def by_seed(values):
    return dict(enumerate(values))


def word(values, criterion, statistic="median", fixed=None):
    return decide(by_seed(values), criterion, statistic, Plan(tuple(range(len(values))), len(values))).word


@given(
    st.lists(numbers, max_size=5), st.sampled_from(CRITERIA), numbers, st.sampled_from(["share", "median"]),
    st.floats(0.01, 0.99),
)  # fmt: skip
def test_fewer_than_six_seeds_decide_nothing_at_any_level(values, criterion, threshold, statistic, level):
    assert word(values, criterion(threshold), statistic) == "undecided"
    assert decide_at(by_seed(values), criterion(threshold), statistic, level).word == "undecided"


@given(st.lists(numbers, min_size=6, max_size=9), numbers)
def test_six_to_eight_seeds_decide_when_they_agree(values, threshold):
    sides = {value >= threshold for value in values}
    unanimous = len(values) < 9 and len(sides) == 1
    if unanimous:
        expected = "supported" if sides == {True} else "refuted"
        assert word(values, at_least(threshold)) == word(values, at_least(threshold), "share") == expected
    elif len(values) < 9:
        assert word(values, at_least(threshold)) == word(values, at_least(threshold), "share") == "undecided"


@pytest.mark.parametrize(("seeds", "most"), [(6, 6), (10, 9), (20, 15), (30, 21)])
def test_in_most_of_a_fixed_number_of_seeds(seeds, most):
    def told(passed):
        return word([1.0] * passed + [0.0] * (seeds - passed), at_least(1), "share")

    assert told(most) == "supported"
    assert told(most - 1) == told(seeds - most + 1) == "undecided"
    assert told(seeds - most) == "refuted"


@pytest.mark.parametrize(("seeds", "most"), [(10, 10), (20, 16), (30, 22)])
def test_in_most_seeds_of_a_run_until_decided(seeds, most):
    def told(passed):
        # The seeds that fail come first and pass alternately, so that no earlier look decides.
        held = [k % 2 == 0 for k in range(2 * (seeds - passed))] + [True] * (2 * passed - seeds)
        return decide(by_seed(map(float, held)), at_least(1), "share", Plan(tuple(range(seeds)), 0))

    assert (told(most).word, told(most).level) == ("supported", LEVEL / 3)
    assert told(most - 1).word == "undecided"


def test_a_verdict_once_reached_stands():
    values = [1.0] * 10 + [0.0] * 20
    found = decide(by_seed(values), at_least(1), "share", Plan(tuple(range(30)), 0))
    assert (found.word, found.measured, found.seeds) == ("supported", 1.0, tuple(range(10)))


def test_looks_are_those_that_were_planned():
    def looks(seeds, fixed):
        return [(look.seeds, look.level) for look in Plan(tuple(range(seeds)), fixed).looks]

    third = LEVEL / len(LOOKS)
    assert looks(6, 6) == [(6, LEVEL)]
    assert looks(17, 17) == [(17, LEVEL)]
    assert looks(9, 6) == [(6, LEVEL)]
    assert looks(25, 6) == [(6, LEVEL), (10, third), (20, third)]
    assert looks(30, 0) == [(10, third), (20, third), (30, third)]
    assert looks(9, 0) == []
    assert Plan.of((4, 2)).looks == [Look(2, LEVEL)]


@given(st.lists(numbers, min_size=6, max_size=9))
def test_a_run_until_decided_decides_nothing_before_its_first_look(values):
    found = decide(by_seed(values), at_least(-1000), "median", Plan(tuple(range(len(values))), 0))
    assert (found.word, len(found.seeds)) == ("undecided", len(values))


@given(st.permutations(range(12)), st.lists(numbers, min_size=12, max_size=12))
def test_the_first_seeds_of_the_run_are_looked_at_first(order, values):
    plan = Plan(tuple(order), 0)
    found = decide(by_seed(values), at_least(-1000), "median", plan)
    assert set(found.seeds) == set(order[:10])


@given(st.lists(numbers, min_size=6, max_size=12), st.sets(st.integers(0, 11), max_size=12))
def test_seeds_without_a_value_are_left_out(values, missing):
    kept = {seed: value for seed, value in by_seed(values).items() if seed not in missing}
    found = decide(kept, at_least(0), "share", Plan.of(range(len(values))))
    assert found.seeds == tuple(kept)
    assert found.measured == (sum(v >= 0 for v in kept.values()) / len(kept) if kept else None)


@given(st.lists(numbers, min_size=6, max_size=40), numbers)
def test_opposite_criteria_get_opposite_verdicts(values, threshold):
    turned = {"supported": "refuted", "refuted": "supported", "undecided": "undecided"}
    for one, other in ((at_least, below), (above, at_most)):
        assert word(values, one(threshold)) == turned[word(values, other(threshold))]


@given(st.lists(numbers, min_size=6, max_size=20), numbers, st.floats(0, 50))
def test_a_band_is_met_by_the_whole_interval_and_missed_on_one_side(values, low, width):
    found = word(values, between(low, low + width))
    ends = {word(values, at_least(low)), word(values, at_most(low + width))}
    assert found == ("refuted" if "refuted" in ends else "supported" if ends == {"supported"} else "undecided")


@given(st.lists(numbers, min_size=6, max_size=20), numbers)
def test_values_on_both_sides_of_a_band_decide_nothing(values, centre):
    spread = [centre - 200, centre + 200] * 6
    assert word(spread, between(centre - 1, centre + 1)) == "undecided"


@pytest.mark.parametrize("rule", SIZES_OF_RULES)
def test_no_rule_errs_more_often_than_three_times_in_a_hundred_on_either_side(rule):
    published = seed_distributions()
    chosen = [*published[:2], *(one for one in published[2:] if one.name.endswith(", solved"))]
    errors = [error for one in chosen for error in one_sided_errors(one, rule).values()]
    assert 0 < max(errors) <= ERROR_LIMIT
    assert share_error(rule) <= ERROR_LIMIT


@pytest.mark.parametrize("rule", [rule for rule, (seeds, _) in SIZES_OF_RULES.items() if seeds <= 10])
def test_the_enumerated_error_is_that_of_all_outcomes(rule):
    seeds, fixed = SIZES_OF_RULES[rule]
    plan = Plan(tuple(range(seeds)), fixed)
    outcomes = itertools.product([0.0, 1.0], repeat=seeds)
    supported = sum(decide(by_seed(one), at_least(1), "share", plan).word == "supported" for one in outcomes)
    assert share_error(rule) == pytest.approx(supported / 2**seeds)


@given(st.floats(0.05, 0.95))
def test_the_error_of_six_seeds_is_a_power_of_the_share(share):
    assert share_error("six, fixed", share) == pytest.approx(share**6)
    assert math.isclose(share_error("six, fixed"), 1 / 64)


@given(st.lists(st.floats(-9, 9), min_size=6, max_size=9), st.sampled_from(["share", "median"]), st.booleans())
def test_before_the_first_look_an_interval_has_the_level_of_the_look_and_no_verdict(values, statistic, fixed):
    level = LEVEL if fixed else LEVEL / len(LOOKS)
    planned = Plan(tuple(range(10)), 10 if fixed else 0).until(range(len(values)))
    found = decide(by_seed(values), at_least(-10), statistic, planned)
    expected = (
        share_interval(len(values), len(values), level) if statistic == "share" else median_interval(values, level)
    )
    assert (found.word, found.level, found.interval) == ("undecided", level, expected)
