"""Laws of the claims of the safety study: what each measures on made-up results; results survive JSON."""

import json
from dataclasses import replace

import pytest

from tests.studies.made_up import SEEDS, all_differ, check, judged, made_up
from tests.studies.safety_finetuning.world import GIVEN, PARTS, ROWS, STUDY, world
from toylab.settings import as_json, convert_value
from toylab.studies.safety_finetuning.claims import claims
from toylab.studies.safety_finetuning.claims_exact import in_a_line
from toylab.studies.safety_finetuning.results import SafetyResult, mean_behaviour
from toylab.tasks import TaskConcept
from toylab.verdicts.claim import Conditions


def test_no_two_numbers_of_the_made_up_world_are_equal():
    assert all_differ(world())


def test_every_claim_measures_on_the_made_up_world_what_plain_loops_find():
    check(STUDY.claims(), world(), ROWS)


def test_without_standard_dpo_unlearning_is_told_from_ssft_alone():
    rows = {"dpo-is-unlearning": replace(ROWS["dpo-is-unlearning"], control=lambda s: s["ssft"].cosine.after)}
    few = replace(STUDY, parts=()).claims()
    check([one for one in few if one.id in rows], world(), rows)


def test_what_counts_as_complying_follows_from_the_number_of_letters():
    found = {one.id: (str(one.criterion), one.origin) for one in claims(TaskConcept(letters=6), PARTS)}
    assert found["jailbreak-success"] == (">= 0.24", "computed: guessing letters, 0.17, and 0.07 (our pilot)")
    assert [found[id][0] for id in ("jailbreak-success-unseen", "jailbreak-tokens")] == [">= 0.44"] * 2
    assert found["soft-tokens"][0] == ">= 0.59"


EXACT = {id for id in ROWS if id.startswith("exact-")}


def test_exact_claims_name_the_prompts_and_hold_only_without_a_counterexample():
    exact = {one.id: one for one in STUDY.claims() if one.exact}
    assert set(exact) == EXACT
    assert exact["exact-transfer"].exact == "all 5,120 competing-task and mismatched-token prompts"
    for id in ("exact-refuse", "exact-transfer", "exact-refuse-fresh"):
        assert exact[id].criterion.meets(4288 / 4288)
        assert not exact[id].criterion.meets(4287 / 4288)


def test_details_of_an_exact_claim_are_counts_margins_and_counterexamples():
    details = judged(STUDY.claims(), world())["exact-jailbreak"].details
    found = [world()["ssft"][seed].exact.complied["competing-text"] for seed in SEEDS]
    assert [*details["prompts"].values()] == [one.holds for one in found]
    assert [*details["smallest margin of logits"].values()] == pytest.approx([one.margin for one in found], rel=1e-3)
    assert {*details["smallest counterexample"].values()} == {"BOS id U1 EOT -> a c"}
    assert (
        in_a_line("row\n  token  BOS id\n  target  . .\n\n  token  U1 EOT a\n  decided  c b") == "BOS id U1 EOT -> c b"
    )


def test_results_stored_without_exact_decisions_leave_these_claims_without_numbers():
    before = {name: {seed: replace(one, exact=None) for seed, one in held.items()} for name, held in world().items()}
    found = judged(STUDY.claims(), Conditions(before))
    assert {id for id, one in found.items() if not one.seeds} == EXACT


def test_claims_on_all_prompts_of_a_task_with_too_many_are_undecidable():
    large = {one.id: one for one in replace(STUDY, task=TaskConcept(nodes=3)).claims()}
    assert {id for id, one in large.items() if "32,768 texts" in one.undecidable} == EXACT
    assert not any(one.exact for one in large.values())


# What is not decided -------------------------------------------------------------------------------------------------


def test_nothing_measured_gives_no_verdict():
    assert {one.verdict for one in judged(STUDY.claims(), Conditions()).values()} == {"not run"}


def test_no_claim_waits_for_a_training():
    assert not [one.id for one in STUDY.claims() if one.undecidable]


@pytest.mark.parametrize(
    ("part", "ids"),
    [
        ("standard", {"standard-dpo-refuses", "standard-dpo-keeps-safe"}),
        ("small-rate", {"jailbreak-rate", "jailbreak-rate-unseen"}),
        ("decay", {"null-space-inputs", "null-space-inputs-gain"}),
        ("regime", {"null-space-regime"}),
        ("fresh", {"refuse-fresh", "null-space-fresh", "exact-refuse-fresh"}),
    ],
)
def test_a_claim_on_a_part_that_was_not_run_says_how_to_run_it(part, ids):
    without = replace(STUDY, parts=tuple(one for one in PARTS if one != part))
    found = {one.id: one.undecidable for one in without.claims() if "--parts" in one.undecidable}
    assert set(found) == ids
    assert all(reason.split("--parts ")[1].endswith(part) for reason in found.values())


def test_too_few_cases_on_one_side_leave_the_nearness_undecided():
    few = made_up(SafetyResult, "few", GIVEN)
    few = replace(few, nearness=replace(few.nearness, competing_text=replace(few.nearness.competing_text, auc=None)))
    some = Conditions(world() | {"ssft": world()["ssft"] | {5: few}})
    none = Conditions(world() | {"ssft": dict.fromkeys(SEEDS, few)})
    found = judged(STUDY.claims(), some)["jailbreak-near-safe"]
    assert found.seeds == SEEDS[:5]
    assert "1 of 6 seeds miss" in found.note
    assert "fewer than 5" in judged(STUDY.claims(), none)["jailbreak-near-safe"].note


def test_our_own_questions_and_checks_stand_apart_from_the_claims_of_the_paper():
    of = {kind: {one.id for one in STUDY.claims() if one.kind == kind} for kind in ("own", "set-up")}
    assert of["set-up"] == {"pretrain"}
    assert of["own"] == {
        "standard-dpo-refuses", "standard-dpo-keeps-safe", "control-complies", "null-direction", "null-space-regime",
        "null-space-inputs", "null-space-inputs-gain", "null-part-matters", "relearning", "dpo-is-unlearning",
        "few-directions", "released-columns", "released-rows", "refuse-fresh", "null-space-fresh",
        *EXACT,
    }  # fmt: skip


def numbers_in(details) -> list[float]:
    if isinstance(details, dict):
        return [number for inner in details.values() for number in numbers_in(inner)]
    return [details] if isinstance(details, int | float) else []


def test_details_have_no_number_of_what_no_condition_measured():
    assert not [number for one in judged(STUDY.claims(), Conditions()).values() for number in numbers_in(one.details)]
    assert numbers_in(judged(STUDY.claims(), world())["dpo-is-unlearning"].details["at the base and after"])


# Results -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ssft", "dpo-standard"])
def test_a_result_survives_json(name):
    found = world()[name][3]
    held = json.loads(json.dumps(as_json(found, "result", SafetyResult)))
    assert convert_value(SafetyResult, held, "result") == found


def test_means_of_behaviour_are_of_every_share_and_of_the_sets_that_all_have():
    some, other = world()["ssft"][0].behaviour, replace(world()["ssft"][1].behaviour, mismatched_token=None)
    found = mean_behaviour([some, other])
    for share in ("complies", "refuses"):
        both = [getattr(one.competing_text, share) for one in (some, other)]
        assert getattr(found.competing_text, share) == pytest.approx(sum(both) / 2)
    assert found.mismatched_token is None
    assert mean_behaviour([some]) == some
