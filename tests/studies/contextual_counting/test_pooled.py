"""Laws of the numbers of several models: worked out by hand on made-up regions that differ."""

from dataclasses import replace

import pytest

from tests.studies.contextual_counting.findings import COPY, SOLVED, UNSOLVED, finding, model, region, shift
from toylab.studies.contextual_counting import pooled
from toylab.studies.contextual_counting.results import CountShift, OtherStrings


def by_class(one: CountShift) -> float:
    return one.predicted


def by_place(one: CountShift) -> float:
    return one.by_place


def test_counting_regions_are_those_of_all_models_that_there_are():
    added = [shift(after=0.2)] * 3
    held = model([SOLVED, UNSOLVED, COPY], [shift()] * 3, added)
    assert pooled.counting_regions([None, held, held], "a region") == [(SOLVED, added[0])] * 2


def test_the_error_of_a_law_is_the_mean_over_counting_regions():
    held = model([SOLVED, COPY, SOLVED], [shift(), shift(after=9.0), shift(after=0.25)])
    assert pooled.prediction_error([held], by_class, "16 zeros") == pytest.approx((0 + 1) / 2)
    assert pooled.prediction_error([held, None], by_place, "16 zeros") == pytest.approx((0.6 + 2.2) / 2)
    assert pooled.prediction_error([model([COPY])], by_class, "16 zeros") is None


def test_a_prediction_hits_within_fifteen_percent_of_the_slope_after():
    just, beyond = (shift(before=2.0, after=1.0, predicted=told) for told in (1.14, 0.84))
    both = model([SOLVED, SOLVED], [just, beyond])
    assert pooled.share_predicted(both, law=by_class) == 0.5
    assert pooled.share_predicted(None, both, model([SOLVED], [just]), law=by_class) == pytest.approx(2 / 3)
    assert pooled.share_predicted(None, model([SOLVED]), law=by_class) is None
    assert pooled.share_predicted(both, law=by_class, answer=lambda one: one.after) == 1


def test_only_slopes_that_are_told_to_change_by_more_than_a_hit_are_asked():
    still, falls = shift(before=2.0, after=2.0, predicted=1.71), shift(before=2.0, after=1.5, predicted=1.69)
    rises, exact = shift(before=2.0, after=2.9, predicted=2.4), shift(before=2.0, after=1.6, predicted=1.6)
    held = model([SOLVED] * 4, [still, falls, rises, exact])
    assert pooled.predicted_to_change([None, held], by_class) == [falls, rises, exact]
    assert pooled.share_predicted(held, law=by_class) == pytest.approx(2 / 3)


def test_the_last_region_is_not_asked_about_one_behind_it():
    first, last = shift(after=0.4), shift(after=0.3)
    held = model([replace(SOLVED), replace(SOLVED)], [first, last], [shift(after=0.2), shift(after=0.1)])
    assert pooled.predicted_to_change([held], by_class) == [first, last, held.shifts["a region"][0]]


def test_accuracy_kept_is_of_regions_that_are_lost_without_one_of_the_biases():
    idle = region(bias="begin", **{"the bias": 0.2801})  # .05 above the floor
    regions = [region(0.91, bias="zeros"), region(0.92, bias="begin"), region(0.93, bias="own ["), idle, UNSOLVED]
    held = model(regions, [shift(accuracy) for accuracy in (0.1, 0.5, 0.9, 0.6, 0.7)], [shift(0.2)] * 5)
    assert pooled.accuracy_kept(held, None, biases=("begin", "own [")) == pytest.approx(0.7)
    assert pooled.accuracy_kept(held, biases=("zeros",)) == pytest.approx(0.1)
    assert pooled.accuracy_kept(held, biases=("own ]",)) is None
    assert pooled.lead_of_constant(held, None) == pytest.approx(0.6)
    assert pooled.lead_of_constant(model(regions[1:], [shift()] * 4)) is None
    assert pooled.lead_of_constant(model(regions[:1], [shift()])) is None


def test_what_is_told_beside_a_verdict_is_counted_over_all_models():
    held = [model([SOLVED, UNSOLVED, COPY]), model([SOLVED, region(bias="begin")])]
    assert pooled.regions_solved(held) == "4 of 5"
    assert pooled.bias_names(held) == {"own [": 2, "zeros": 1, "begin": 1}
    assert next(iter(pooled.bias_names(held))) == "own ["
    assert pooled.circuit_names(held) == {"counter": 3, "copy": 1}


def test_accuracy_elsewhere_is_pooled_over_regions_of_all_models():
    one, other = (
        replace(finding(), elsewhere={"length 40": OtherStrings(accuracy=accuracy, floor=0.3)} | more)
        for accuracy, more in (([0.2, 0.4], {"p = 0.3": OtherStrings(accuracy=[0.9], floor=0.1)}), ([0.9], {}))
    )
    assert pooled.accuracy_elsewhere([one, other]) == pytest.approx({"length 40": 0.5, "p = 0.3": 0.9})
