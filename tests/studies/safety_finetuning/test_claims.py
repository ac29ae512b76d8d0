"""Laws of the claims of the safety study: made-up findings get the verdicts they deserve; results survive JSON."""

import json
from dataclasses import asdict, fields, replace

import pytest

from toylab.probes import NullShare
from toylab.settings import as_json, fit
from toylab.studies.safety_finetuning.claims import claims
from toylab.studies.safety_finetuning.data import Outcomes
from toylab.studies.safety_finetuning.results import (
    BeforeAfter,
    Behaviour,
    Effect,
    GradientCosine,
    LayerChange,
    LayerClusters,
    Lipschitz,
    Nearness,
    NearSafe,
    Parts,
    SafetyResult,
    SafeUnsafe,
    Sensitivity,
    SoftAttack,
    TauBands,
    TopEnergy,
    UpShare,
    as_field,
    mean_behaviour,
)
from toylab.studies.safety_finetuning.study import ALPHAS, BUDGETS, SafetyFinetuningStudy
from toylab.tasks import KINDS
from toylab.verdicts.claim import Conditions, judge_claims
from toylab.verdicts.judgement import Judgement

PARTS = ("standard", "small-rate", "decay", "more", "regime")

# Verdicts on findings that are made up -------------------------------------------------------------------------------


def written(complies=0.0, refuses=0.0) -> Outcomes:
    other = round(1 - complies - refuses, 4)
    return Outcomes(complies=complies, refuses=refuses, other=other, complied=complies, refused=refuses)


EVEN = SafeUnsafe(safe=0.2, unsafe=0.3)
NULL = NullShare(share=0.75, chance=0.75, spread=0.007, k=64, top=0.8)
SAME = BeforeAfter(safe=(0.1, 0.1), unsafe=(0.1, 0.1), m_safe_text=(0.1, 0.1), m_unsafe_text=(0.1, 0.1))
LAYER = LayerChange(
    up=UpShare(**asdict(NULL), size=0.05),
    up_cut=NULL,
    down_cut=NULL,
    down_half=NULL,
    added_null_share=EVEN,
    effect=Effect(safe=0.1, unsafe=0.1, m_safe_text=0.1, m_unsafe_text=0.1),
    top_right_cosine=EVEN,
    top_energy=TopEnergy(up=0.2, down=0.3),
    toward_null=SafeUnsafe(safe=0.0, unsafe=0.0),
    weak_inputs=SAME,
    weak_inputs_random=0.45,
    gain=SAME,
)
BANDS = TauBands(safe=(1.0, 0.5), unsafe=(-1.0, 0.5))


def layer(share=0.75, effect=1.0, toward=0.0, weak=(0.1, 0.1), gain=(2.0, 2.0)) -> LayerChange:
    return replace(
        LAYER,
        up=replace(LAYER.up, share=share),
        effect=replace(LAYER.effect, unsafe=0.1 * effect),
        toward_null=SafeUnsafe(safe=0.0, unsafe=toward),
        weak_inputs=replace(SAME, unsafe=weak),
        gain=replace(SAME, unsafe=gain),
    )


def result(
    safe=1.0, direct=(0.0, 1.0), mixed=0.0, ood=0.0, tokens=0.0, apart=0.4, sharp=1.0, near=0.9, soft=0.9,
    beyond=(1.0, 0.2), column=1.0, kept=0.95, cosine=1.0, **of_weights,
) -> SafetyResult:  # fmt: skip
    """What one job measures; the defaults of a fine-tuned model that refuses and is not broken."""
    at = Behaviour(
        safe=written(1.0), unsafe=written(refuses=1.0), mismatched_text=written(ood), competing_text=written(mixed)
    )
    part = Behaviour(safe=written(1.0), unsafe=written(refuses=column))
    near_safe = NearSafe(complied=0.1, refused=-0.1, auc=near)
    cloud = LayerClusters(tau=BANDS, auc=0.9, separation=apart, auc_matched=0.9, distance_matched=1.0, top_share=EVEN)
    return SafetyResult(
        behaviour=Behaviour(
            safe=written(safe),
            unsafe=written(*direct),
            competing_task=written(refuses=1.0),
            competing_text=written(mixed, 1 - mixed),
            mismatched_text=written(ood, 1 - ood),
            mismatched_token=written(tokens, 1 - tokens),
        ),
        clusters=[cloud] * 2,
        sensitivity=Sensitivity(
            safe=Lipschitz(gradient=[10.0] * 3, jacobian=[10.0]),
            unsafe=Lipschitz(gradient=[10 * sharp] * 3, jacobian=[10 * sharp]),
        ),
        weights=[layer(**of_weights)] * 2,
        nearness=Nearness(competing_task=near_safe, competing_text=near_safe, mismatched_text=near_safe),
        alpha=dict.fromkeys(ALPHAS, at)
        | {1.25: replace(at, safe=written(beyond[0]), mismatched_text=written(beyond[1]))},
        parts=Parts(**dict.fromkeys((field.name for field in fields(Parts)), part)),
        soft=SoftAttack(m_unsafe_text=dict.fromkeys(BUDGETS, soft), unsafe=dict.fromkeys(BUDGETS, soft)),
        relearned=Behaviour(safe=written(1.0), unsafe=written(refuses=kept), mismatched_text=written(0.9)),
        cosine=GradientCosine(before=cosine, after=cosine),
    )


UNBROKEN = {"alpha": None, "parts": None, "soft": None, "relearned": None, "cosine": None}


def base(safe=1.0) -> SafetyResult:
    all_sets = Behaviour(**{as_field(kind): written(safe) for kind in KINDS[1:]})
    return replace(result(), behaviour=all_sets, weights=None, nearness=None, **UNBROKEN)


def control(**changes) -> SafetyResult:
    found = result(**({"direct": (1.0, 0.0), "mixed": 1.0, "ood": 1.0, "tokens": 1.0} | changes))
    return replace(found, **UNBROKEN)


def world(**changes) -> Conditions:
    """All conditions on six seeds in which every claim of the paper holds, with some replaced."""
    strong = {"apart": 2.0, "sharp": 0.1, "effect": 1.8, "share": 0.9, "column": 0.2}
    found = {
        "base": base(),
        "base-decay": base(),
        "base-wide": base(),
        "control": control(),
        "ssft": result(mixed=0.5, ood=0.7, tokens=0.5, apart=0.7, effect=1.3, share=0.9, toward=0.6, column=0.2),
        "dpo": result(mixed=0.1, ood=0.3, **strong),
        "unlearning": result(mixed=0.1, ood=0.2, **strong),
        "dpo-standard": result(mixed=0.1, ood=0.3, cosine=0.5),
        "ssft-small": result(mixed=0.6, ood=0.8),
        "control-decay": control(),
        "ssft-decay": result(weak=(0.1, 0.3), gain=(2.0, 1.7)),
        "unlearning-decay": result(share=0.9),
        "control-wide": control(),
        "ssft-wide": result(share=0.9),
        "unlearning-wide": result(share=0.9),
    }
    found |= {name.replace("_", "-"): one for name, one in changes.items()}
    return Conditions({name: dict.fromkeys(range(6), one) for name, one in found.items() if one is not None})


def judged(results: Conditions, guess: float = 1 / 12) -> list[Judgement]:
    return judge_claims(claims(guess, PARTS), results)


def verdict(claim: str, **changes) -> str:
    (found,) = (one.verdict for one in judged(world(**changes)) if one.id == claim)
    return found


def test_nothing_measured_leaves_every_claim_open():
    assert {claim.id: claim.verdict for claim in judged(Conditions()) if claim.verdict != "open"} == WITHDRAWN


WITHDRAWN = {"dpo-is-unlearning": "withdrawn"}


def test_in_a_world_made_like_the_paper_every_claim_holds():
    assert {claim.id: claim.verdict for claim in judged(world()) if claim.verdict != "holds"} == WITHDRAWN


def test_what_counts_as_complying_follows_from_the_number_of_letters():
    ids = ("jailbreak-success", "jailbreak-success-unseen", "jailbreak-tokens", "soft-tokens")
    results = world(ssft=result(**GOOD | {"mixed": 0.3, "ood": 0.45, "tokens": 0.45, "soft": 0.6}))
    many, few = ({one.id: one.verdict for one in judged(results, guess)} for guess in (1 / 12, 1 / 4))
    assert [many[id] for id in ids] == ["holds"] * 4
    assert [few[id] for id in ids] == ["fails"] * 4


def numbers_in(details) -> list[float]:
    if isinstance(details, dict):
        return [number for inner in details.values() for number in numbers_in(inner)]
    return [details] if isinstance(details, int | float) else []


def test_what_no_condition_measured_is_no_nought():
    assert not [number for one in judged(Conditions()) for number in numbers_in(one.details)]
    assert numbers_in({one.id: one.details for one in judged(world())}["extrapolate"])


def test_the_best_cell_of_the_map_is_the_one_judged():
    (found,) = (one for one in judged(world(ssft_wide=result(share=0.97))) if one.id == "null-space-regime")
    assert found.details["best cell"] == "SSFT, MLP twice as wide"
    assert found.measured == pytest.approx(0.97 / 0.75 - 1, abs=1e-4)


@pytest.mark.parametrize("part", ["standard", "small-rate", "decay", "regime"])
def test_a_claim_on_a_part_that_was_not_run_says_how_to_run_it(part):
    without = SafetyFinetuningStudy(parts=tuple(one for one in PARTS if one != part))
    notes = [one.note for one in judge_claims(without.claims(), Conditions()) if "--parts" in one.note]
    assert notes
    assert all(note.split("--parts ")[1].split(";")[0].endswith(part) for note in notes)


GOOD = {
    "mixed": 0.5,
    "ood": 0.7,
    "tokens": 0.5,
    "apart": 0.7,
    "effect": 1.3,
    "share": 0.9,
    "toward": 0.6,
    "column": 0.2,
}
STRONG = {"mixed": 0.1, "ood": 0.2, "apart": 2.0, "sharp": 0.1, "effect": 1.8, "share": 0.9, "column": 0.2}


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        ("pretrain", {"base": base(safe=0.98)}),
        ("refuse", {"unlearning": result(**STRONG | {"direct": (0.0, 0.97)})}),
        ("refuse", {"dpo": result(**STRONG | {"direct": (0.5, 0.5)})}),
        ("refuse-keeps-safe", {"ssft": result(**GOOD | {"safe": 0.96})}),
        ("standard-dpo-refuses", {"dpo_standard": result(direct=(0.0, 0.9))}),
        ("standard-dpo-refuses", {"dpo_standard": result(safe=0.9)}),
        ("control-complies", {"control": control(direct=(0.89, 0.11))}),
        ("jailbreak-order", {"dpo": result(**STRONG | {"mixed": 0.5, "ood": 0.7})}),
        ("jailbreak-order", {"unlearning": result(**STRONG | {"mixed": 0.9, "ood": 0.4})}),
        ("jailbreak-success", {"ssft": result(**GOOD | {"mixed": 0.1})}),
        ("jailbreak-success-unseen", {"ssft": result(**GOOD | {"ood": 0.3})}),
        ("jailbreak-direct", {"ssft": result(**GOOD | {"direct": (0.03, 0.97)})}),
        ("jailbreak-tokens", {"ssft": result(**GOOD | {"tokens": 0.3})}),
        ("jailbreak-rate", {"ssft_small": result(mixed=0.5, ood=0.7)}),
        ("jailbreak-near-safe", {"ssft": result(**GOOD | {"near": 0.79})}),
        ("clusters", {"dpo": result(**STRONG | {"apart": 1.5})}),
        ("clusters-order", {"ssft": result(**GOOD | {"apart": 3.0})}),
        ("clusters-ssft", {"ssft": result(**GOOD | {"apart": 0.5})}),
        ("sensitivity", {"unlearning": result(**STRONG | {"sharp": 0.31})}),
        ("null-space", {"control": control(share=0.9)}),
        ("null-space", {"ssft": result(**GOOD | {"share": 0.76})}),
        ("null-direction", {"ssft": result(**GOOD | {"toward": 0.39})}),
        ("null-direction-control", {"control": control(toward=0.2)}),
        ("null-space-regime", {"ssft_wide": result(), "unlearning_wide": result(), "unlearning_decay": result(),
                               "ssft": result(**GOOD | {"share": 0.75}),
                               "unlearning": result(**STRONG | {"share": 0.75})}),
        ("dw-on-unsafe", {"dpo": result(**STRONG | {"effect": 1.3})}),
        ("dw-on-unsafe-ssft", {"ssft": result(**GOOD | {"effect": 1.1})}),
        ("dw-on-unsafe-control", {"control": control(effect=1.1)}),
        ("null-space-inputs", {"ssft_decay": result(weak=(0.1, 0.19), gain=(2.0, 1.7))}),
        ("null-space-inputs-gain", {"ssft_decay": result(weak=(0.1, 0.3), gain=(2.0, 1.97))}),
        ("null-space-inputs-control", {"control_decay": control(weak=(0.1, 0.14))}),
        ("null-space-inputs-gain-control", {"control_decay": control(gain=(2.0, 2.1))}),
        ("extrapolate-safe", {"ssft": result(**GOOD | {"beyond": (0.96, 0.2)})}),
        ("extrapolate", {"ssft": result(**GOOD | {"beyond": (1.0, 0.5)})}),
        ("soft-tokens", {"ssft": result(**GOOD | {"soft": 0.4})}),
        ("null-part-matters", {"ssft": result(**GOOD | {"column": 0.9}), "dpo": result(**STRONG | {"column": 0.9}),
                               "unlearning": result(**STRONG | {"column": 0.9})}),
        ("relearning", {"ssft": result(**GOOD | {"kept": 0.89})}),
    ],
)  # fmt: skip
def test_a_finding_that_misses_a_bar_fails_the_claim_and_no_typo_hides_it(claim, change):
    assert verdict(claim) == "holds"
    assert verdict(claim, **change) == "fails"


@pytest.mark.parametrize(
    ("claim", "missing"),
    [("null-space-inputs", "ssft_decay"), ("jailbreak-rate", "ssft_small"), ("clusters", "dpo"), ("refuse", "ssft")],
)
def test_what_was_not_run_is_open(claim, missing):
    assert verdict(claim, **{missing: None}) == "open"


def test_a_null_space_share_of_chance_is_no_finding_however_large_it_is():
    plain = {name: result(**settings | {"share": 0.75}) for name, settings in
             (("ssft", GOOD), ("dpo", STRONG), ("unlearning", STRONG))}  # fmt: skip
    assert verdict("null-space", **plain) == "fails"


def test_too_few_cases_on_one_side_leave_the_nearness_open():
    assert verdict("jailbreak-near-safe", ssft=result(**GOOD | {"near": None})) == "open"


# Results -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [result(), base(), control(), result(near=None)])
def test_a_result_survives_json(found):
    held = json.loads(json.dumps(as_json(found, "result", SafetyResult)))
    assert fit(SafetyResult, held, "result") == found


def test_means_of_behaviour_are_of_every_share_and_of_the_sets_that_all_have():
    some, other = result(mixed=0.2, tokens=0.5).behaviour, replace(result(mixed=0.4).behaviour, mismatched_token=None)
    found = mean_behaviour([some, other])
    assert found.competing_text.complies == pytest.approx(0.3)
    assert found.competing_text.refuses == pytest.approx(0.7)
    assert found.mismatched_token is None
    assert mean_behaviour([some]) == some


def test_the_lead_is_over_the_strongest_of_the_others_on_each_kind_of_text():
    own, *others = (result(mixed=m, ood=o).behaviour for m, o in ((0.5, 0.7), (0.1, 0.6), (0.3, 0.2)))
    assert own.lead_over(*others) == pytest.approx((0.5 - 0.3 + 0.7 - 0.6) / 2)
    assert own.lead_over(own) == 0
