"""Laws of what is read off results: shares of a way, leads, and sums, worked out by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.model.steering import PreFlight
from toylab.studies.steering_vectors.data import AnswerShares
from toylab.studies.steering_vectors.results import (
    AnsweringResult,
    Baseline,
    BaselinesResult,
    BaseResult,
    CombineResult,
    FeatureResult,
    FlagResult,
    FullResult,
    LayerCombination,
    LensReading,
    PathsResult,
    Persistence,
    SteeredPair,
    TokenReading,
    TokenScales,
    VectorResult,
    accuracy_at,
    fraction_of_way,
    gain_share,
    of_all_layers,
    shares_of,
)
from toylab.studies.steering_vectors.separability import (
    SeparabilityPoint,
    SeparabilityResult,
    separability_conditions,
    separability_points,
    separability_sweep,
)
from toylab.studies.steering_vectors.settings import Settings
from toylab.studies.steering_vectors.transfer import FamilyResult, TransferredVector, TransferResult
from toylab.verdicts.claim import Conditions


def only(kind: type, **known: Any) -> Any:
    """A result of which nothing else is known."""
    found = object.__new__(kind)
    for name, value in known.items():
        object.__setattr__(found, name, value)
    return found


def answers(*right: float) -> dict[float, AnswerShares]:
    """At temperatures 0, .7 and 1; of one, at 1."""
    return {t: only(AnswerShares, accuracy=one) for t, one in zip((0, 0.7, 1)[-len(right) :], right, strict=True)}


numbers = st.floats(-2, 2)


@given(numbers, numbers, numbers)
def test_a_portion_is_where_a_value_stands_on_the_way(start, share, end):
    if abs(end - start) > 1e-3:
        assert fraction_of_way(start, start + share * (end - start), end) == pytest.approx(share, abs=1e-9)
        assert fraction_of_way(start, 0.25 * start + 0.75 * end, end) == pytest.approx(0.75)
    assert fraction_of_way(start, share, start) == fraction_of_way(start, share, start + 1e-7) == 0


def test_accuracies_are_read_at_their_temperature():
    base, vector, full = (
        only(kind, answers=answers(*right))
        for kind, right in (
            (BaseResult, (0.1, 0.2, 0.4)),
            (VectorResult, (0.7, 0.5, 0.5)),
            (FullResult, (0.9, 0.8, 0.6)),
        )
    )
    assert isinstance(base, AnsweringResult)
    assert [accuracy_at(base, t) for t in (0, 0.7, 1)] == [0.1, 0.2, 0.4]
    assert accuracy_at(base) == 0.4
    assert gain_share(base, vector, full, 0) == pytest.approx(0.6 / 0.8)
    assert gain_share(base, vector, full) == pytest.approx(0.1 / 0.2)


def test_a_vector_has_shares_of_its_kl_and_of_its_gain_by_place():
    assert only(VectorResult, kl=[1.5, 0.5, 0.0]).kl_shares == [0.75, 0.25, 0]
    assert only(VectorResult, kl=[0.0, 0.0]).kl_shares is shares_of([0.0]) is None
    vector = only(VectorResult, few=SteeredPair(base=0.2, steered=0.7), places={"first": 0.6, "prompt": 0.1})
    assert vector.gain_at("first") == pytest.approx(0.8)
    assert vector.gain_at("prompt") == pytest.approx(-0.2)


@given(st.integers(1, 21), st.integers(2, 21))
def test_ranks_are_counted_from_the_last_token_too(rank, tokens):
    lens = only(LensReading, DIRECT=TokenReading(cosine=0.0, rank=rank), all=[0.0] * max(rank, tokens))
    assert lens.direct_from_last == len(range(rank, max(rank, tokens) + 1))


def test_the_lead_of_sep_is_over_the_largest_of_the_four_other_kinds():
    sizes = {"BOS": 5.0, "digits": 9.0, "SEP": 40.0, "opener": 20.0, "chain": 10.0}
    assert only(TokenScales, **sizes).sep_lead == 20
    for name in ("BOS", "digits", "opener", "chain"):
        assert only(TokenScales, **sizes | {name: 35.0}).sep_lead == 5
        assert only(TokenScales, **sizes | {name: 50.0}).sep_lead == -10


def test_what_a_route_loses_and_keeps_is_measured_from_the_vector():
    assert only(FlagResult, steered=0.7, routes={"skip key": 0.6}).lost("skip key") == pytest.approx(0.1)
    paths = only(PathsResult, base=0.2, steered=0.7, routes={"skip key": 0.6})
    assert paths.kept("skip key") == pytest.approx(0.8)


def test_the_gain_of_a_vector_is_over_the_base():
    assert only(BaselinesResult, base=0.2, steered=0.7).gain == pytest.approx(0.5)


def test_baselines_have_names():
    slots = ("random_reward", "minus", "difference_of_means", "logit_bias")
    found = only(BaselinesResult, **{slot: Baseline(accuracy={1: float(x)}) for x, slot in enumerate(slots)})
    assert {name: one.accuracy[1] for name, one in found.named.items()} == {
        "random reward": 0, "minus the vector": 1, "difference of means": 2, "logit bias": 3,
    }  # fmt: skip


def test_pairs_are_compared_with_the_better_of_the_two_alone():
    held = [
        LayerCombination(layers=[0, 1], accuracy={1: 0.8, 0.5: 0.9}),
        LayerCombination(layers=[0, 2], accuracy={1: 0.2, 0.5: 0.5}),
        LayerCombination(layers=[0, 1, 2], accuracy={1: 0.0, 0.5: 0.1}),
    ]
    kept = [Persistence(to_mean=x, to_vector=-x) for x in (0.1, 0.2, 0.3)]
    persistence = {0: {1: kept[0], 2: kept[1]}, 1: {2: kept[2]}}
    found = only(CombineResult, alone={0: 0.5, 1: 0.7, 2: 0.2}, combined=held, persistence=persistence)
    assert found.pair_gain(1) == pytest.approx((0.1 - 0.3) / 2)
    assert found.pair_gain(0.5) == pytest.approx((0.2 + 0.0) / 2)
    assert found.by_layers_and_scale == {
        "[0, 1] times 1": 0.8, "[0, 1] times 0.5": 0.9, "[0, 2] times 1": 0.2, "[0, 2] times 0.5": 0.5,
        "[0, 1, 2] times 1": 0.0, "[0, 1, 2] times 0.5": 0.1,
    }  # fmt: skip
    assert of_all_layers(found.persistence) == kept


def test_a_feature_is_compared_with_chance_and_with_the_larger_of_two_indicators():
    rivals = {"chance": 0.05, "trivial_difference": 0.1, "format_difference": 0.1}
    for difference in (0.5, -0.5):
        found = only(FeatureResult, difference=difference, **rivals)
        assert (found.beyond_chance, found.beyond_format) == pytest.approx((0.45, 0.4))
        for name in list(rivals)[1:]:
            other = only(FeatureResult, difference=difference, **rivals | {name: 0.3})
            assert (other.beyond_chance, other.beyond_format) == pytest.approx((0.45, 0.2))


def test_what_is_carried_over_is_a_share_of_the_own_gain():
    family = only(
        FamilyResult, base=0.1, own=0.6, of_the_parent=0.3, of_random=0.2, parent=0.3, parent_own=0.8,
        parent_with_that_of_the_child=0.7,
    )  # fmt: skip
    assert (family.carried, family.carried_back, family.carried_at_random) == pytest.approx((0.4, 0.8, 0.2))
    layers = {
        2: TransferredVector(own=0.7, cosine=0.0, raw=0.3, mapped=0.4, random=0.1),
        3: TransferredVector(own=0.6, cosine=0.0, raw=0.5, mapped=0.1),
    }
    transfer = only(TransferResult, base=0.2, layers=layers)
    assert [transfer.share(2, which) for which in ("raw", "mapped", "random")] == pytest.approx([0.2, 0.4, -0.2])
    assert (transfer.share(3), transfer.share(3, "mapped")) == pytest.approx((0.75, -0.25))


def test_each_base_of_the_sweep_has_the_vector_that_was_trained_on_it():
    def flight(cosine: float) -> PreFlight:
        return PreFlight(cosine=cosine, distance=1.0, length=9.0, bound=10 * cosine)

    def base(cosine: float, right: float) -> BaseResult:
        return only(BaseResult, pre_flight=flight(cosine), answers=answers(right))

    def turned(cosine: float, start: float, end: float) -> SeparabilityResult:
        return only(SeparabilityResult, pre_flight=flight(cosine), answers=answers(start), vector=answers(end))

    one, other = (only(VectorResult, answers=answers(right)) for right in (0.6, 0.3))
    full = only(FullResult, answers=answers(0.9))
    found = separability_points(
        full, base(0.1, 0.2), one, base(0.9, 0.1), other, turned(0.5, 0.4, 0.8), turned(0.3, 0.3, 0.5)
    )
    expected = [(0.1, 1.0, 0.4 / 0.7), (0.3, 3.0, 0.2 / 0.6), (0.5, 5.0, 0.4 / 0.5), (0.9, 9.0, 0.2 / 0.8)]
    assert [(one.cosine, one.bound, one.share) for one in found] == [pytest.approx(one) for one in expected]
    assert isinstance(found[0], SeparabilityPoint)
    results = {"full": full, "base": base(0.1, 0.2), "vector-3": one}
    held = Conditions({name: {4: result, 5: result} for name, result in results.items()} | {"full": {5: full, 6: full}})
    assert separability_sweep(held, Settings(parts=())) == {5: found[:1]}


def test_the_sweep_has_what_its_parts_train():
    learned, turned = ("base-learned", "vector-learned"), ("cosine-0.8", "cosine-0.95")
    for parts, more in (((), ()), (("learned",), learned), (("separability",), turned)):
        assert separability_conditions(Settings(parts=parts)) == ("full", "base", "vector-3", *more)
    assert separability_conditions(Settings())[3:] == (*learned, *turned)
