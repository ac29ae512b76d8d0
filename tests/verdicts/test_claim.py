"""Laws of claims as data: a claim says what it judges, asks the seeds that it may ask, and names what it depends on."""

from dataclasses import dataclass, replace
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError
from toylab.verdicts.claim import Claim, ClaimDetail, Conditions, Control, Precondition, judge_claims
from toylab.verdicts.criterion import above, at_least, at_most, below
from toylab.verdicts.decision import Plan, decide


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
    statement="Models learn.",
    conditions=("main",),
    measure="accuracy",
    quantity=lambda main: main.accuracy,
    criterion=at_least(0.9),
    statistic="share",
)
values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def of(**conditions: list[float]) -> Conditions:
    return Conditions({name: {s: Found(a) for s, a in enumerate(held)} for name, held in conditions.items()})


def plan_of(results: Conditions) -> Plan:
    return Plan.of(results.in_any(*results))


def judged(claim: Claim, results: Conditions, **more):
    return claim.judged(results, plan_of(results), **more)


@given(values, st.sampled_from(["share", "median"]))
def test_a_claim_is_decided_by_its_numbers_criterion_and_statistic(held, statistic):
    found = judged(replace(CLAIM, statistic=statistic), of(main=held))
    decision = decide(dict(enumerate(held)), CLAIM.criterion, statistic, Plan.of(range(len(held))))
    assert (found.verdict, found.seeds, found.level) == (decision.word, decision.seeds, decision.level)
    assert found.measured == pytest.approx(decision.measured, rel=1e-3)
    assert found.details["by seed"] == {str(k): round(value, 4) for k, value in enumerate(held)}


@given(values, values)
def test_differences_are_taken_within_the_seeds_that_both_conditions_have(main, rival):
    claim = replace(
        CLAIM,
        conditions=("main", "rival"),
        quantity=lambda a, b: a.accuracy - b.accuracy,
        criterion=above(0),
        statistic="median",
    )
    found = judged(claim, of(main=main, rival=rival))
    pairs = list(zip(main, rival, strict=False))
    assert found.seeds == tuple(range(len(pairs)))
    assert found.measured == pytest.approx(median(a - b for a, b in pairs), rel=1e-3)


def test_a_condition_that_was_not_run_leaves_the_claim_not_run():
    found = judged(CLAIM, of(other=[1.0, 1.0]))
    assert (found.verdict, found.seeds, found.measured) == ("not run", (), None)


RANDOM = Control("random weights", ("random",), lambda random: random.accuracy)
GOOD, BAD, MIXED = [1.0] * 6, [0.0] * 6, [0.0, 1.0] * 3


@pytest.mark.parametrize(
    ("main", "random", "verdict", "misses"),
    [
        (GOOD, BAD, "supported", True),
        (GOOD, GOOD, "uninformative", False),
        (GOOD, MIXED, "undecided", None),
        (GOOD, [], "undecided", None),
        (BAD, BAD, "refuted", True),
        (BAD, GOOD, "uninformative", False),
        (MIXED, BAD, "undecided", True),
        ([], BAD, "not run", True),
        (GOOD[:5], BAD[:5], "undecided", None),
    ],
)
@pytest.mark.parametrize("statistic", ["share", "median"])
def test_a_claim_is_judged_where_its_control_clearly_misses_the_criterion(main, random, verdict, misses, statistic):
    found = judged(replace(CLAIM, control=RANDOM, statistic=statistic), of(main=main, random=random))
    assert (found.verdict, found.control.misses) == (verdict, misses)
    assert found.control.what == "random weights"
    assert found.verdict in ("supported", "refuted", "not run") or found.note


@given(st.floats(0, 1))
def test_a_control_that_is_computed_is_a_number_without_an_interval(guess):
    found = judged(replace(CLAIM, control=Control("guessing", (), lambda: guess)), of(main=GOOD))
    assert found.control.interval is None
    assert found.verdict == ("uninformative" if guess >= 0.9 else "supported")


def test_a_claim_that_presupposes_what_is_not_there_is_undecided_whatever_its_control_says():
    lacking = Precondition(condition="main", test=lambda main: False, otherwise="nobody solved it", every=False)
    found = judged(replace(CLAIM, control=RANDOM, needs=(lacking,)), of(main=GOOD, random=GOOD))
    assert (found.verdict, found.note) == ("undecided", "nobody solved it")


def test_seeds_that_are_left_out_are_counted_in_the_note():
    solved = Precondition(condition="main", test=lambda main: main.accuracy >= 0.5, otherwise="nobody solved it")
    found = judged(replace(CLAIM, needs=(solved,)), of(main=[0.0, 0.0, *GOOD]))
    assert (found.verdict, found.note) == ("supported", "2 of 8 seeds miss a precondition")


@given(st.integers(0, 9), st.sampled_from(["main", "random"]))
def test_a_run_that_was_interrupted_has_no_verdict(done, missing):
    results = of(main=[1.0] * 10, random=[0.0] * 10)
    del results[missing][done]
    claim = replace(CLAIM, control=RANDOM)
    found = claim.judged(results, Plan.of(range(10)))
    assert (found.verdict, found.note) == ("undecided", f"{done} of 10 seeds are done")
    assert claim.judged(of(main=[1.0] * 10, random=[0.0] * 10), Plan.of(range(10))).verdict == "supported"


SOLVED = Precondition(condition="main", test=lambda main: main.accuracy >= 0.9, otherwise="nobody solved it")


@pytest.mark.parametrize(
    ("main", "sham", "verdict", "misses"),
    [
        (GOOD, BAD, "supported", True),
        (GOOD, GOOD, "uninformative", False),
        (GOOD, MIXED, "supported", None),
        (GOOD, [], "supported", None),
        (BAD, GOOD, "refuted", False),
    ],
)
def test_a_sham_that_meets_the_criterion_makes_a_supported_claim_uninformative(main, sham, verdict, misses):
    shams = {"untrained weights": of(main=sham)}
    found = judged(replace(CLAIM, control=RANDOM), of(main=main, random=BAD), shams=shams)
    assert (found.verdict, found.shams[0].misses) == (verdict, misses)
    below = replace(CLAIM, asks="absence", criterion=at_most(0.5), statistic="median")
    assert judged(below, of(main=BAD), shams=shams).shams == ()
    assert judged(replace(CLAIM, untried="it learns, by design"), of(main=main), shams=shams).shams == ()


def test_a_sham_is_asked_without_what_is_presupposed_and_only_where_it_replaces_a_condition():
    results = of(main=GOOD, other=GOOD)
    shams = {"no parts": of(main=BAD, other=GOOD) | {"other": results["other"]}}
    shams = {what: Conditions(held) for what, held in shams.items()}
    needing = replace(CLAIM, needs=(SOLVED,))
    assert judged(needing, results, shams=shams).shams[0].measured == 0
    assert judged(replace(CLAIM, conditions=("other",)), results, shams=shams).shams == ()
    missing = None
    for undefined in (
        lambda main: 1 / main.accuracy,
        lambda main: main.accuracy or float("nan"),
        lambda main: main.accuracy or missing.share,
        lambda main: main.accuracy or missing - 1,
    ):
        claim = replace(CLAIM, quantity=undefined, statistic="median")
        assert judged(claim, results, shams=shams).shams[0].measured is None
    faulty = replace(CLAIM, quantity=lambda main: main.accuracy or main.acuracy, statistic="median")
    with pytest.raises(AttributeError, match="acuracy"):
        judged(faulty, results, shams=shams)
    unmeasured = replace(CLAIM, conditions=("other",), optional=("not run",), quantity=lambda other, _: other.accuracy)
    assert judged(unmeasured, results, shams=shams).shams == ()


@pytest.mark.parametrize(
    ("main", "family", "also"),
    [
        (GOOD, 1, "yes"),
        (GOOD, 2, "not reachable"),
        ([1.0] * 9 + [0.0], 4, "no"),
        ([1.0] * 10, 4, "yes"),
        (MIXED, 1, ""),
    ],
)
def test_a_claim_of_the_paper_is_also_judged_over_the_family(main, family, also):
    found = CLAIM.judged(of(main=main), Plan.of(range(len(main))), family)
    assert found.family == also
    assert replace(CLAIM, kind="own").judged(of(main=main), Plan.of(range(len(main))), family).family == ""


def test_the_family_is_that_of_the_claims_of_the_paper_that_were_measured():
    others = [
        replace(CLAIM, id="second"),
        replace(CLAIM, id="own", kind="own"),
        replace(CLAIM, id="other", conditions=("not run",)),
    ]
    results = of(main=GOOD)
    assert judge_claims([CLAIM], results, plan_of(results))[0].family == "yes"
    assert judge_claims([CLAIM, *others[1:]], results, plan_of(results))[0].family == "yes"
    assert judge_claims([CLAIM, *others], results, plan_of(results))[0].family == "not reachable"


def test_a_need_of_each_seed_leaves_out_those_that_lack_it_and_one_of_any_seed_none():
    solved = Precondition(condition="main", test=lambda main: main.accuracy >= 0.5, otherwise="nobody solved it")
    results = of(main=[0.2, 0.6, 0.9], control=[0.1, 0.1, 0.1])
    low = replace(CLAIM, conditions=("control",), criterion=below(0.2), statistic="median")
    assert judged(replace(low, needs=(solved,)), results).seeds == (1, 2)
    assert judged(replace(low, needs=(replace(solved, every=False),)), results).seeds == (0, 1, 2)
    none = of(main=[0.2, 0.1], control=[0.1, 0.1])
    for need in (solved, replace(solved, every=False)):
        found = judged(replace(low, needs=(need,)), none)
        assert found.note.startswith("nobody solved it")
        assert found.verdict == ("not run" if need.every else "undecided")


def test_a_need_of_each_seed_leaves_out_those_whose_need_was_not_run():
    need = Precondition(condition="base", test=lambda base: base.accuracy > 0, otherwise="no base")
    results = of(main=[1.0] * 3, base=[1.0] * 2)
    assert judged(replace(CLAIM, needs=(need,)), results).seeds == (0, 1)


def test_a_seed_without_the_quantity_is_left_out():
    claim = replace(CLAIM, quantity=lambda main: main.solved_at)
    assert judged(claim, of(main=[1.0, 1.0])).seeds == ()


def test_why_a_claim_is_not_judged_comes_before_its_note():
    found = judged(replace(CLAIM, undecidable="guessing solves it", note="read so"), of(main=GOOD))
    assert (found.verdict, found.note, found.measured) == ("undecided", "guessing solves it; read so", 1.0)


@given(st.sampled_from(["share", "median"]))
def test_the_criterion_says_the_measure_the_threshold_and_the_statistic(statistic):
    text = replace(CLAIM, statistic=statistic).criterion_text
    assert f"accuracy {CLAIM.criterion}" in text
    assert ("in most seeds" in text, "median over seeds" in text) == (statistic == "share", statistic == "median")


def test_details_are_read_by_path_or_function_of_the_seeds_that_are_asked():
    solved = Precondition(condition="main", test=lambda main: main.accuracy >= 0.5, otherwise="nobody solved it")
    claim = replace(
        CLAIM,
        needs=(solved,),
        details={
            "carry": ClaimDetail("main", "head.carry"),
            "step": ClaimDetail("main", "solved_at", never=True),
            "undefined": ClaimDetail("main", "solved_at"),
            "twice": ClaimDetail("control", lambda control: 2 * control.accuracy),
            "table": lambda results: sorted(results),
        },
    )
    details = judged(claim, of(main=[0.1, 0.7], control=[0.25, 0.5])).details
    assert details["carry"] == {"1": 0.5}
    assert (details["step"], details["undefined"]) == ({"1": "never"}, {})
    assert details["twice"] == {"0": 0.5, "1": 1.0}
    assert details["table"] == ["control", "main"]


def test_a_claim_depends_on_its_conditions_its_needs_and_its_details():
    need = Precondition(condition="base", test=bool, otherwise="")
    details = {"x": ClaimDetail("parity", "accuracy"), "y": lambda results: 1}
    claim = replace(CLAIM, needs=(need,), details=details, control=RANDOM)
    assert claim.depends_on == ("main", "random", "base", "parity")


def test_an_id_declared_twice_is_refused():
    with pytest.raises(ToylabError, match=r"claim 'learned': is declared twice; give each"):
        judge_claims([CLAIM, CLAIM], of(main=[1.0]), Plan.of([0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_quantity_that_is_no_finite_number_is_named_with_its_seed(value):
    with pytest.raises(ToylabError, match=r"learned: seed 1 gives (nan|inf)"):
        judged(CLAIM, of(main=[1.0, value]))
