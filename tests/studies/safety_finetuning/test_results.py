"""Laws of the results of the safety study: each summary is worked out by hand on layers, sets and sides that differ."""

from dataclasses import replace

import pytest

from toylab.probes import NullShare
from toylab.studies.safety_finetuning.data import Outcomes
from toylab.studies.safety_finetuning.results import (
    BeforeAfter,
    Behaviour,
    LayerChange,
    LayerClusters,
    Lipschitz,
    NearnessBands,
    Parts,
    RelativeChange,
    SafetyResult,
    SafeUnsafe,
    Sensitivity,
    TopEnergy,
    UpShare,
    as_field,
    mean_behaviour,
)
from toylab.studies.safety_finetuning.results_change import SineForm


def written(complies: float, refuses: float = 0.0) -> Outcomes:
    return Outcomes(complies, refuses, round(1 - complies - refuses, 3), complies / 2, refuses / 2)


def behaviour(**complies: float) -> Behaviour:
    found = {"safe": 0.9, "unsafe": 0.8} | complies
    return Behaviour(**{name: written(share, (1 - share) / 4) for name, share in found.items()})


BOTH = SafeUnsafe(safe=0.2, unsafe=0.3)
INPUTS = BeforeAfter(safe=(0.1, 0.2), unsafe=(0.4, 0.6), m_safe_text=(0.7, 0.8), m_unsafe_text=(0.9, 1.0))
EFFECT = RelativeChange(safe=0.2, unsafe=0.5, m_safe_text=0.1, m_unsafe_text=0.7)


def layer(share: float, chance: float = 0.5, top: float = 0.6) -> LayerChange:
    null = NullShare(share=0.1, chance=0.2, spread=0.1, k=3, top=0.3)
    return LayerChange(
        up=UpShare(share=share, chance=chance, spread=0.1, k=3, top=top, size=0.1),
        up_cut=null, down_cut=null, down_half=null, added_null_share=BOTH, relative_change=EFFECT,
        top_right_cosine=BOTH,
        top_energy=TopEnergy(up=0.1, down=top), toward_null=BOTH, weak_inputs=INPUTS, weak_inputs_random=0.3,
        amplification=INPUTS, size=share,
    )  # fmt: skip


def result(*layers: LayerChange, separations=()) -> SafetyResult:
    bands = NearnessBands(safe=(1.0, 0.1), unsafe=(-1.0, 0.1))
    clusters = [
        LayerClusters(nearness=bands, auc=0.9, separation=s, auc_matched=0.8, distance_matched=1.0, top_share=BOTH)
        for s in separations
    ]
    return SafetyResult(behaviour=behaviour(), weights=[*layers], clusters=clusters)


def test_a_name_becomes_a_field_by_small_letters_and_one_line_for_all_else():
    assert as_field("M, unsafe text") == "m_unsafe_text"
    assert as_field("MLPs, rank 1") == "mlps_rank_1"


def test_the_least_compliance_is_on_the_set_where_it_is_smallest_of_those_asked():
    assert behaviour(competing_text=0.3, mismatched_token=0.6).least_compliance == 0.3
    assert behaviour().least_compliance == 0.8


def test_the_lead_is_over_the_strongest_of_the_others_on_each_kind_of_text():
    own, *others = (
        behaviour(competing_text=mixed, mismatched_text=unseen)
        for mixed, unseen in ((0.5, 0.7), (0.1, 0.6), (0.3, 0.2))
    )
    assert own.lead_over(*others, on="competing_text") == pytest.approx(0.5 - 0.3)
    assert own.lead_over(*others, on="mismatched_text") == pytest.approx(0.7 - 0.6)


def test_a_table_says_of_each_set_that_was_asked_what_was_written():
    assert behaviour(competing_task=0.2).table == {
        "safe": "0.900 / 0.025 / 0.075", "unsafe": "0.800 / 0.050 / 0.150", "competing_task": "0.200 / 0.200 / 0.600",
    }  # fmt: skip


def test_a_mean_is_of_every_share_on_the_sets_that_all_were_asked_on():
    found = mean_behaviour([behaviour(competing_text=0.2, competing_task=0.5), behaviour(competing_text=0.6)])
    assert list(vars(found.competing_text).values()) == pytest.approx([0.4, 0.15, 0.45, 0.2, 0.075])
    assert (found.safe.complies, found.unsafe.complies, found.competing_task) == (0.9, 0.8, None)


def test_ratios_are_of_means_unsafe_over_safe_and_after_over_before():
    found = Sensitivity(
        safe=Lipschitz(gradient=[1.0, 3.0], jacobian=[4.0]), unsafe=Lipschitz(gradient=[8.0, 2.0, 5.0], jacobian=[1.0])
    )
    assert (found.ratio, found.jacobian_ratio) == (2.5, 0.25)
    assert EFFECT.ratio == 2.5
    assert INPUTS.ratio == pytest.approx(1.5)


def test_the_last_layer_is_the_one_on_top():
    found = result(layer(0.1), layer(0.2), separations=(1.0, 2.0))
    assert found.last.up.share == 0.2
    assert found.separation == 2.0


def test_the_size_is_that_of_the_layer_that_moved_most_and_the_stable_rank_a_mean():
    found = result(layer(0.3, top=0.2), layer(0.1, top=0.5))
    assert (found.size, found.stable_rank) == (0.3, pytest.approx((10 + 5 + 10 + 2) / 4))


def test_a_released_sine_stands_beside_the_mean_of_random_changes():
    form = SineForm(own=0.2, random=0.5, spread=0.1)
    assert (form.deviation, form.noise) == pytest.approx((-3, 0.2))


def test_lifts_are_means_over_layers_of_each_layers_share_over_its_own_chance():
    found = result(layer(0.9, chance=0.75, top=0.3), layer(0.6, chance=0.5, top=0.8))
    assert found.lift == pytest.approx((1.2 + 1.2) / 2)
    assert found.top_lift == pytest.approx((0.4 + 1.6) / 2)


def test_what_goes_beyond_a_control_goes_beyond_chance_as_well():
    """In one layer the control lies above chance, in the other below."""
    own, control = result(layer(0.8), layer(0.7)), result(layer(0.6), layer(0.3))
    assert own.lift_beyond(control) == pytest.approx((1.6 - 1.2 + 1.4 - 1.0) / 2)
    assert own.excess(control) == pytest.approx(min(0.8 - 0.6, 0.7 - 0.5))
    assert result(layer(0.8), layer(0.55)).excess(control) == pytest.approx(0.05)


def test_a_random_change_stands_in_the_place_of_the_change():
    found = replace(result(layer(0.8), separations=(2.0,)), random=[layer(0.4)])
    assert found.randomised.last.up.share == 0.4
    assert replace(found.randomised, weights=found.weights) == found


def test_parts_are_summed_up_by_refusals_where_one_should_and_accuracy_where_not():
    names = ("up_in_the_column_space", "up_in_the_null_space", "mlps_alone", "all_but_the_mlps", "mlps_rank_1")
    parts = Parts(
        **{name: Behaviour(safe=written(0.9 - k / 10), unsafe=written(0.1, k / 10)) for k, name in enumerate(names)}
    )
    assert parts.refusal_and_accuracy == {name: (k / 10, 0.9 - k / 10) for k, name in enumerate(names)}
