"""Laws of the numbers that claims and figures read from results: worked out by hand on made-up regions that differ."""

import json
import math
from dataclasses import replace

import pytest

from tests.studies.contextual_counting.findings import COPY, SOLVED, UNSOLVED, finding, flat, model, region, shift
from toylab.probes import ClassReadout
from toylab.settings import as_json, convert_value
from toylab.studies.contextual_counting.results import (
    CLASSES,
    CONSTANT,
    COUNTED,
    VARYING,
    HandwrittenResult,
    NamedRegion,
    RegionReadout,
    RotaryProfile,
    StoppedPlanes,
)


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


def test_the_next_class_is_that_with_most_attention_but_one():
    shares = dict.fromkeys(CLASSES[1:], 0.1) | {"outside ones": 0.2, "zeros": 0.3}
    one = replace(region(bias="zeros", zeros=0.3), shares=shares)
    assert one.without_next == 0.9  # which stands under "outside ones"
    assert replace(one, blocked={}).without_next == one.accuracy  # strings have no such tokens


def test_near_the_floor_is_a_tenth_above_it_at_most():
    assert replace(flat(0.5), floor=0.4001).is_near_floor
    assert not replace(flat(0.5), floor=0.3999).is_near_floor


def test_the_slow_share_is_that_of_absolute_parts_from_planes_that_turn_by_less_than_a_radian():
    stopped = StoppedPlanes(fast=[], slow=[], all=[])
    profile = RotaryProfile(planes=[1.0, -2.0, 3.0, -4.0], frequencies=[1.0, 0.1, 0.02, 0.01], stopped=stopped)
    assert profile.slow_share(50) == pytest.approx(4 / 10)
    assert profile.slow_share(49) == pytest.approx(7 / 10)
    assert profile.slow_share(5) == pytest.approx(9 / 10)
    assert profile.slow_lead(49) == pytest.approx(7 / 10 - 2 / 4)


def test_the_bracket_share_is_that_of_a_one_that_reads_one_token_of_each_type():
    scores = [[9.0] * 5, [math.log(w) + 100 for w in (1.0, 2.0, 3.0, 4.0, 5.0)], *[[9.0] * 5] * 3]
    assert finding(scores=scores).bracket_share == pytest.approx(12 / 15)


def test_only_solved_regions_are_asked_for_shares_circuits_and_readouts():
    held = model([SOLVED, UNSOLVED, COPY])
    assert held.solved == [SOLVED, COPY]
    assert held.share(lambda one: one.circuit == "copy") == 0.5
    assert held.over_solved(lambda one: one.accuracy) == pytest.approx(0.96)
    assert held.share_at_floor(lambda one: {"counter": 0.28, "copy": None}[one.circuit]) == 0.5
    assert held.share_at_floor(lambda one: 0.2801) == 0
    assert model([UNSOLVED]).share(lambda one: True) is model([UNSOLVED]).over_solved(lambda one: 1.0) is None
    assert held.without(COUNTED) == [one.blocked[COUNTED] for one in (SOLVED, UNSOLVED, COPY)]
    readouts = [
        RegionReadout(two_values=ClassReadout(0.0, agreement), all_classes=ClassReadout(0.0, 0.9))
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


def test_a_golden_region_is_named_correctly_by_circuit_and_bias_both():
    def one(circuit: str, bias: str) -> NamedRegion:
        return NamedRegion(circuit=circuit, bias=bias, k=1.0, r2=1.0, blocked={})

    named = {
        "begin": [one("counter", "begin"), one("copy", "begin"), one("counter", "own [")],
        "bracket": [one("counter", "own ["), one("counter", "begin")],
    }
    assert HandwrittenResult(errors=0, asked=1, named=named).share_named_correctly == pytest.approx(2 / 5)


def test_results_survive_their_json_form():
    golden = HandwrittenResult(errors=0, asked=1, named={})
    for result in (finding(region()), finding(readout=None, scores=None, untrained=None), golden):
        assert convert_value(type(result), json.loads(json.dumps(as_json(result, "result"))), "result") == result
