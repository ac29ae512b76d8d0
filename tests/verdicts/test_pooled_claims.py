"""Laws of claims on conditions that may lack a seed, and of tables over conditions."""

from toylab.verdicts.claim import Claim, ClaimDetail, Conditions
from toylab.verdicts.criterion import at_least
from toylab.verdicts.decision import Plan
from toylab.verdicts.intervals import interval, mean_in_words

PLAN = Plan.of(range(9))
RESULTS = Conditions({"all": {0: 1.0, 1: 2.0, 2: 3.0}, "few": {2: 7.0, 5: 9.0}})


def claim(conditions: tuple[str, ...], optional: tuple[str, ...], **more) -> Claim:
    return Claim(
        id="sum",
        place="section 1",
        statement="The sum is large.",
        conditions=conditions,
        optional=optional,
        measure="sum over conditions",
        quantity=lambda *held: sum(one for one in held if one is not None),
        criterion=at_least(3.0),
        **more,
    )


def by_seed(one: Claim) -> dict[str, float]:
    return one.judged(RESULTS, PLAN).details["by seed"]


def test_an_optional_condition_asks_no_seed_that_the_others_lack():
    assert by_seed(claim(("all",), ("few",))) == {"0": 1, "1": 2, "2": 10}
    assert by_seed(claim(("all", "few"), ())) == {"2": 10}
    assert by_seed(claim(("all",), ("not run",))) == {"0": 1, "1": 2, "2": 3}


def test_where_all_conditions_are_optional_each_seed_of_any_is_asked():
    assert by_seed(claim((), ("few", "all"))) == {"0": 1, "1": 2, "2": 10, "5": 9}
    assert claim((), ("not run",)).judged(RESULTS, PLAN).verdict == "not run"


def test_a_claim_depends_on_its_optional_conditions():
    details = {"more": ClaimDetail("third", lambda one: one)}
    assert claim(("all",), ("few",), details=details).depends_on == ("all", "few", "third")


def test_a_table_has_the_conditions_that_were_run():
    assert RESULTS.by_condition(("few", "not run", "all"), sum) == {"few": 16.0, "all": 6.0}


def test_numbers_in_words_are_those_of_their_interval():
    low, high = interval([True] * 3 + [False])
    assert mean_in_words([True] * 3 + [False]) == f"3 of 4 [{low:.2f}, {high:.2f}]"
    low, high = interval([0.25, 0.5, 1.0])
    assert mean_in_words([0.25, 0.5, 1.0]) == f"0.583 [{low:.3f}, {high:.3f}]"
    assert (mean_in_words([0.5]), mean_in_words([True]), mean_in_words([])) == ("0.500", "1 of 1", "0 of 0")
