"""Laws of the numbers that claims and figures read from results: worked out by hand on made-up regions that differ."""

import math
from dataclasses import replace

import pytest

from tests.studies.contextual_counting.test_study import finding, flat, region
from toylab.probes import Readout
from toylab.studies.contextual_counting import results
from toylab.studies.contextual_counting.results import (
    CLASSES,
    CONSTANT,
    COUNTED,
    VARYING,
    CountingResult,
    Elsewhere,
    GoldenResult,
    NamedRegion,
    RegionReadout,
    RotaryProfile,
    Shift,
    StoppedPlanes,
)


def shift(accuracy=0.9, before=1.0, after=0.5, predicted=0.5, by_place=0.8) -> Shift:
    return Shift(accuracy=accuracy, before=before, after=after, predicted=predicted, by_place=by_place)


def by_class(one: Shift) -> float:
    return one.predicted


def by_place(one: Shift) -> float:
    return one.by_place


def model(regions, zeros=(), added=()) -> CountingResult:
    """With these regions, and what 16 zeros and an empty region do to each."""
    return replace(finding(*regions), shifts={"16 zeros": list(zeros), "a region": list(added)})


SOLVED, UNSOLVED = region(0.95), region(0.89, bias="begin")
COPY = region(0.97, circuit="copy", bias="zeros")


def test_classes_are_the_counted_ones_those_that_vary_and_those_that_do_not():
    assert {COUNTED, *CONSTANT, *VARYING} == set(CLASSES)
    assert set(VARYING) == {"other regions' ones", "outside ones", "zeros", "later brackets"}


def test_an_error_is_relative_to_the_slope_after_the_change():
    assert shift(after=0.5).error(0.6) == pytest.approx(0.2)
    assert shift(after=0.5).error(0.4) == pytest.approx(0.2)
    assert shift(after=0.0).error(0.4) == 1.0


@pytest.mark.parametrize(("accuracy", "solved"), [(0.9, True), (0.899, False)])
def test_a_region_is_solved_from_nine_tenths_on(accuracy, solved):
    assert region(accuracy).solved == solved
    assert replace(finding(), accuracy=[accuracy - 0.05, accuracy + 0.05]).is_solved == solved


def test_a_bias_is_needed_where_there_is_one_and_nothing_is_known_without():
    assert region(**{"the bias": 0.3}).needs_bias(0.3)
    assert not region(**{"the bias": 0.31}).needs_bias(0.3)
    assert not region(bias="mixed").needs_bias(1.0)
    assert region(bias="mixed").without_bias is None
    assert region(without=0.2, **{"the bias": 0.6}).without_ones == 0.2
    assert region(without=0.2, **{"the bias": 0.6}).without_bias == 0.6


def test_the_largest_class_is_that_with_most_attention_even_where_none_has_enough_for_a_name():
    shares = dict.fromkeys(CLASSES[1:], 0.1) | {"outside ones": 0.3}
    assert replace(region(bias="mixed"), shares=shares).largest == "outside ones"


def test_near_the_floor_is_a_tenth_above_it_at_most():
    assert replace(flat(0.5), floor=0.4001).is_near_floor
    assert not replace(flat(0.5), floor=0.3999).is_near_floor


def test_the_slow_share_is_that_of_absolute_parts_from_planes_that_turn_by_less_than_a_radian():
    stopped = StoppedPlanes(fast=[], slow=[], all=[])
    profile = RotaryProfile(planes=[1.0, -2.0, 3.0, -4.0], frequencies=[1.0, 0.1, 0.02, 0.01], stopped=stopped)
    assert profile.slow_share(50) == pytest.approx(4 / 10)
    assert profile.slow_share(49) == pytest.approx(7 / 10)
    assert profile.slow_share(5) == pytest.approx(9 / 10)


def test_the_bracket_share_is_that_of_a_one_that_reads_one_token_of_each_type():
    scores = [[9.0] * 5, [math.log(w) + 100 for w in (1.0, 2.0, 3.0, 4.0, 5.0)], *[[9.0] * 5] * 3]
    assert finding(scores=scores).bracket_share == pytest.approx(12 / 15)


def test_only_solved_regions_are_asked_for_shares_circuits_and_readouts():
    held = model([SOLVED, UNSOLVED, COPY])
    assert held.solved == [SOLVED, COPY]
    assert held.share(lambda one: one.circuit == "copy") == 0.5
    assert held.without(COUNTED) == [one.blocked[COUNTED] for one in (SOLVED, UNSOLVED, COPY)]
    readouts = [
        RegionReadout(two_values=Readout(0.0, agreement), all_classes=Readout(0.0, 0.9))
        for agreement in (0.5, 0.1, 0.7)
    ]
    assert replace(held, readout=readouts).agreement == pytest.approx(0.6)
    assert replace(held, readout=None).agreement is None
    assert replace(model([UNSOLVED]), readout=readouts[:1]).agreement is None


def test_a_lead_is_that_of_the_first_over_the_second():
    assert flat(0.7).lead(flat(0.4)) == pytest.approx(0.3)


def test_slopes_are_asked_of_regions_that_are_solved_and_count_in_the_decoder():
    zeros, added = [shift(), shift(after=0.4), shift(after=0.3)], [shift(after=0.2)] * 3
    held = model([SOLVED, UNSOLVED, COPY], zeros, added)
    assert held.shifted("16 zeros") == [(SOLVED, zeros[0])]
    assert held.shifted("32 zeros") == []
    assert results.counting_regions([None, held, held], "a region") == [(SOLVED, added[0])] * 2


def test_the_error_of_a_law_is_the_mean_over_counting_regions():
    held = model([SOLVED, COPY, SOLVED], [shift(), shift(after=9.0), shift(after=0.25)])
    assert results.prediction_error([held], by_class, "16 zeros") == pytest.approx((0 + 1) / 2)
    assert results.prediction_error([held, None], by_place, "16 zeros") == pytest.approx((0.6 + 2.2) / 2)
    assert results.prediction_error([model([COPY])], by_class, "16 zeros") is None


def test_a_hit_is_within_fifteen_percent_of_either_change():
    right, wrong = shift(after=1.0, predicted=1.14), shift(after=1.0, predicted=0.84)
    held = model([SOLVED, SOLVED], [right, wrong], [wrong, right])
    assert results.hits([held], by_class) == [True, False, False, True]
    one_sided = model([SOLVED], [right], [wrong])
    assert results.share_predicted(one_sided, law=by_class) == 0.5
    assert results.share_predicted(None, one_sided, model([SOLVED], [right], [right]), law=by_class) == 0.75
    assert results.share_predicted(None, model([SOLVED]), law=by_class) is None
    assert results.share_predicted(model([SOLVED], added=[right]), law=by_class) is None
    assert results.share_predicted(model([SOLVED], zeros=[right]), law=by_class) == 1


def test_near_hits_are_of_slopes_that_are_told_to_change_by_five_percent_from_what_they_were():
    still, falls = shift(before=2.0, after=2.0, predicted=1.92), shift(before=2.0, after=1.6, predicted=1.8)
    rises, exact = shift(before=2.0, after=2.9, predicted=2.2), shift(before=2.0, after=1.8, predicted=1.8)
    assert results.near([model([SOLVED] * 4, [still, falls, rises, exact])], by_class) == "2 of 3"
    assert results.hits([model([SOLVED], [still])], by_class, least=0.05) == []


def test_accuracy_kept_is_that_after_sixteen_zeros_of_regions_with_one_of_the_biases():
    regions = [region(bias="zeros"), region(bias="begin"), region(bias="own ["), UNSOLVED]
    held = model(regions, [shift(accuracy) for accuracy in (0.1, 0.5, 0.9, 0.7)], [shift(0.2)] * 4)
    assert results.accuracy_kept(held, None, biases=("begin", "own [")) == pytest.approx(0.7)
    assert results.accuracy_kept(held, biases=("zeros",)) == pytest.approx(0.1)
    assert results.accuracy_kept(held, biases=("own ]",)) is None


def test_the_counting_share_is_a_mean_over_models_that_solved_something():
    all_count, half, none = model([SOLVED] * 3), model([SOLVED, COPY]), model([UNSOLVED])
    assert results.counting_share(all_count, half, none, None) == pytest.approx(0.75)
    assert results.counting_share(none, None) is None


def test_what_is_told_beside_a_verdict_is_counted_over_all_models():
    held = [model([SOLVED, UNSOLVED, COPY]), model([SOLVED, region(bias="begin")])]
    assert results.regions_solved(held) == "4 of 5"
    assert results.bias_names(held) == {"own [": 2, "zeros": 1, "begin": 1}
    assert next(iter(results.bias_names(held))) == "own ["
    assert results.circuit_names(held) == {"counter": 3, "copy": 1}


def test_accuracy_elsewhere_is_pooled_over_regions_of_all_models():
    one, other = (
        replace(finding(), elsewhere={"length 40": Elsewhere(accuracy=accuracy, floor=0.3)} | more)
        for accuracy, more in (([0.2, 0.4], {"p = 0.3": Elsewhere(accuracy=[0.9], floor=0.1)}), ([0.9], {}))
    )
    assert results.accuracy_elsewhere([one, other]) == pytest.approx({"length 40": 0.5, "p = 0.3": 0.9})


def test_a_golden_region_is_named_correctly_by_circuit_and_bias_both():
    def one(circuit: str, bias: str) -> NamedRegion:
        return NamedRegion(circuit=circuit, bias=bias, k=1.0, r2=1.0, blocked={})

    named = {
        "begin": [one("counter", "begin"), one("copy", "begin"), one("counter", "own [")],
        "bracket": [one("counter", "own ["), one("counter", "begin")],
    }
    assert GoldenResult(errors=0, asked=1, named=named).named_correctly == pytest.approx(2 / 5)
