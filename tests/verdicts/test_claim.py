"""Laws of claims as data: a claim says what it judges, asks the seeds that it may ask, and names what it depends on."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.verdicts.claim import Claim, Conditions, Detail, Need, judge_claims
from toylab.verdicts.criterion import above, at_least, below


@dataclass(frozen=True)
class Inner:
    carry: float


@dataclass(frozen=True)
class Found:
    accuracy: float
    head: Inner = Inner(0.5)
    solved_at: int | None = None


CLAIM = Claim(
    id="learned",
    place="section 1",
    sentence="Models learn.",
    conditions=("main",),
    measure="accuracy",
    quantity=lambda main: main.accuracy,
    criterion=at_least(0.9, share=0.5),
)
values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def of(**conditions: list[float]) -> Conditions:
    return Conditions({name: {s: Found(a) for s, a in enumerate(held)} for name, held in conditions.items()})


@given(values, st.sampled_from([0.3, 0.5, 0.8]))
def test_a_share_of_seeds_is_counted_by_the_criterion(held, share):
    claim = replace(CLAIM, criterion=at_least(0.9, share))
    judged = claim.judged(of(main=held))
    passed = sum(value >= 0.9 for value in held) / len(held)
    assert judged.measured == round(passed, 4)
    assert judged.seeds == tuple(range(len(held)))
    expected = "open" if len(held) == 1 else "holds" if passed >= share else "fails"
    assert judged.verdict == expected


@given(values)
def test_without_a_share_the_mean_is_judged(held):
    judged = replace(CLAIM, criterion=at_least(0.9)).judged(of(main=held))
    mean = sum(held) / len(held)
    assert judged.measured == round(mean, 4)
    assert judged.verdict == ("open" if len(held) == 1 else "holds" if mean >= 0.9 else "fails")


@given(values, values)
def test_differences_are_taken_within_the_seeds_that_both_conditions_have(main, rival):
    claim = replace(
        CLAIM,
        conditions=("main", "rival"),
        quantity=lambda a, b: a.accuracy - b.accuracy,
        criterion=above(0),
    )
    judged = claim.judged(of(main=main, rival=rival))
    pairs = list(zip(main, rival, strict=False))
    assert judged.seeds == tuple(range(len(pairs)))
    assert judged.measured == pytest.approx(sum(a - b for a, b in pairs) / len(pairs), abs=1e-4)


def test_a_condition_that_was_not_run_leaves_the_claim_open_without_seeds():
    judged = CLAIM.judged(of(other=[1.0, 1.0]))
    assert (judged.verdict, judged.seeds, judged.measured) == ("open", (), None)


def test_a_need_of_each_seed_leaves_out_those_that_lack_it_and_one_of_any_seed_none():
    solved = Need(condition="main", test=lambda main: main.accuracy >= 0.5, otherwise="nobody solved it")
    results = of(main=[0.2, 0.6, 0.9], control=[0.1, 0.1, 0.1])
    low = replace(CLAIM, conditions=("control",), criterion=below(0.2))
    assert replace(low, needs=(solved,)).judged(results).seeds == (1, 2)
    assert replace(low, needs=(replace(solved, every=False),)).judged(results).seeds == (0, 1, 2)
    none = of(main=[0.2, 0.1], control=[0.1, 0.1])
    for need in (solved, replace(solved, every=False)):
        judged = replace(low, needs=(need,)).judged(none)
        assert (judged.verdict, judged.note) == ("open", "nobody solved it")


def test_a_seed_without_the_quantity_is_left_out():
    claim = replace(CLAIM, quantity=lambda main: main.solved_at)
    assert claim.judged(of(main=[1.0, 1.0])).seeds == ()


def test_why_a_claim_is_not_judged_comes_before_its_note():
    results = of(main=[1.0, 1.0])
    assert replace(CLAIM, undecidable="guessing solves it", note="read so").judged(results).note == (
        "guessing solves it; read so"
    )
    withdrawn = replace(CLAIM, withdrawn="it cannot fail").judged(results)
    assert (withdrawn.verdict, withdrawn.note, withdrawn.measured) == ("withdrawn", "it cannot fail", 1.0)


@given(st.sampled_from([None, 0.5]), st.booleans())
def test_the_bar_says_the_measure_the_criterion_and_the_statistic(share, surely):
    claim = replace(CLAIM, criterion=at_least(0.9, share, surely and share is None))
    assert f"accuracy {claim.criterion}" in claim.bar
    assert ("share of seeds" in claim.bar) == (share is not None)
    assert ("interval" in claim.bar) == claim.criterion.surely


def test_details_are_read_by_path_or_function_of_the_seeds_that_are_asked():
    solved = Need(condition="main", test=lambda main: main.accuracy >= 0.5, otherwise="nobody solved it")
    claim = replace(
        CLAIM,
        needs=(solved,),
        details={
            "carry": Detail("main", "head.carry"),
            "step": Detail("main", "solved_at", never=True),
            "twice": Detail("control", lambda control: 2 * control.accuracy),
            "table": lambda results: sorted(results),
        },
    )
    details = claim.judged(of(main=[0.1, 0.7], control=[0.25, 0.5])).details
    assert details["carry"] == {"1": 0.5}
    assert details["step"] == {"1": "never"}
    assert details["twice"] == {"0": 0.5, "1": 1.0}
    assert details["table"] == ["control", "main"]


def test_a_claim_depends_on_its_conditions_its_needs_and_its_details():
    need = Need(condition="base", test=bool, otherwise="")
    claim = replace(CLAIM, needs=(need,), details={"x": Detail("parity", "accuracy"), "y": lambda results: 1})
    assert claim.depends_on == ("main", "base", "parity")


def test_an_id_declared_twice_is_refused():
    with pytest.raises(ToylabError, match=r"claim 'learned': is declared twice; give each"):
        judge_claims([CLAIM, CLAIM], of(main=[1.0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_quantity_that_is_no_finite_number_is_named_with_its_seed(value):
    with pytest.raises(ToylabError, match=r"learned: seed 1 gives (nan|inf)"):
        CLAIM.judged(of(main=[1.0, value]))
