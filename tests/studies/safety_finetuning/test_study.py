"""Laws of the safety study: arms differ by what their name says, and made-up findings get the verdicts they deserve."""

from copy import deepcopy
from dataclasses import replace

import pytest

from toylab.studies.safety_finetuning.claims import judge
from toylab.studies.safety_finetuning.data import MODEL
from toylab.studies.safety_finetuning.study import ALPHAS, METHODS, SafetyFinetuningStudy
from toylab.tasks import KINDS, TaskConcept
from toylab.training.losses import DPO, NPO, Refusal, Unlearning

ALL = SafetyFinetuningStudy(parts=("standard", "small-rate", "decay", "more", "regime"))


# Arms and jobs -------------------------------------------------------------------------------------------------------


def test_methods_share_one_base_and_differ_in_nothing_but_the_method():
    arms = ALL.arms()
    for method in METHODS:
        assert arms[method] == replace(arms["control"], method=method)
    assert arms["control"].base == "base"


def test_a_small_rate_changes_the_rate_alone():
    arms = ALL.arms()
    for method in ("ssft", "dpo", "unlearning"):
        train = arms[f"{method}-small"].train
        assert train.learning_rate == ALL.small_rate
        assert replace(train, learning_rate=ALL.finetune.learning_rate) == arms[method].train


def test_every_base_of_the_map_differs_from_the_default_in_one_thing():
    plain = ALL.bases()["base"]
    for name, base in ALL.bases().items():
        if name != "base":
            changed = [base.model != plain.model, base.train != plain.train]
            assert sum(changed) == 1, name
    assert ALL.bases()["base-decay"].train.weight_decay == ALL.decay
    assert ALL.bases()["base-wide"].model.hidden == 2 * 4 * MODEL.width
    assert ALL.bases()["base-deep"].model.layers == MODEL.layers + 1


def test_every_arm_comes_after_its_base_in_the_order_of_jobs():
    for study in (ALL, SafetyFinetuningStudy.quick(), SafetyFinetuningStudy.default()):
        jobs = study.jobs()
        for number, job in enumerate(jobs):
            if job.after is not None:
                before = [one.name for one in jobs[:number] if one.seed == job.seed]
                assert job.after in before
                assert job.after == study.arms()[job.name].base


def test_every_cell_of_the_map_has_a_control_of_its_own():
    arms = ALL.arms()
    for suffix in ("-decay", "-strong-decay", "-wide", "-deep", "-long", "-four-times", "-smallest", "-rank-1"):
        control, *others = (arms[f"{m}{suffix}"] for m in ("control", "ssft", "unlearning"))
        assert all(replace(one, method="control") == control for one in others)


def test_parts_that_are_not_asked_for_are_not_trained():
    assert set(SafetyFinetuningStudy(parts=()).arms()) == set(METHODS) - {"npo", "dpo-standard"}
    assert set(SafetyFinetuningStudy(parts=()).bases()) == {"base"}


@pytest.mark.parametrize(
    ("method", "kind"),
    [("control", Refusal), ("ssft", Refusal), ("unlearning", Unlearning), ("dpo", DPO), ("dpo-standard", DPO),
     ("npo", NPO)],
)  # fmt: skip
def test_each_method_has_its_loss(method, kind):
    from toylab.studies.safety_finetuning.data import concept_model

    loss = ALL._loss(method, concept_model(ALL.task))
    assert type(loss) is kind
    if method == "dpo":
        assert (loss.beta, loss.beta_rejected, loss.average, loss.anchor) == (0.1, 0.01, True, 0)
    if method == "dpo-standard":
        assert (loss.beta, loss.beta_rejected, loss.average, loss.anchor) == (ALL.dpo_beta, ALL.dpo_beta, False, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, r"seeds=\(\): give at least one"),
        ({"seeds": (2, 2)}, r"seeds=\(2, 2\): .*all different"),
        ({"rows": 8}, "rows=8: must be at least 32"),
        ({"unsafe_share": 0}, "unsafe_share=0: must be between 0 and 1"),
        ({"attack_steps": 0}, "attack_steps=0: must be at least 1"),
        ({"relearning_steps": 0}, "relearning_steps=0: must be at least 1"),
        ({"dpo_beta": 0}, "dpo_beta=0: must be a positive number"),
        ({"dpo_anchor": -1.0}, "dpo_anchor=-1.0: must be at least 0"),
        ({"decay": -0.5}, "decay=-0.5: must be at least 0"),
        ({"small_rate": 0.0}, "small_rate=0.0: must be a positive number"),
        ({"task": TaskConcept(soft_slots=0)}, "task.soft_slots=0: .*at least 1"),
        ({"task": TaskConcept(duplicates=0)}, "task.duplicates=0: .*at least 1"),
        ({"task": TaskConcept(nodes=1)}, "task.nodes=1: .*at least 2"),
        ({"model": replace(MODEL, hidden=0)}, "model: .*MLPs"),
        ({"model": replace(MODEL, norm="post")}, "model: .*pre-norm"),
        ({"model": replace(MODEL, unembedding="none")}, "model.unembedding=none"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_a_remedy(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SafetyFinetuningStudy(**change)


# Verdicts on findings that are made up -------------------------------------------------------------------------------


def written(complies=0.0, refuses=0.0) -> dict[str, float]:
    other = round(1 - complies - refuses, 4)
    return {"complies": complies, "refuses": refuses, "other": other, "complied": complies, "refused": refuses}


def layer(share=0.75, effect=1.0, toward=0.0, weak=(0.1, 0.1), gain=(2.0, 2.0)) -> dict:
    return {
        "up": {"share": share, "chance": 0.75, "spread": 0.007, "k": 64, "top": 0.8, "size": 0.05},
        "null part of dW a": {"safe": 0.75, "unsafe": 0.75},
        "effect": {"safe": 0.1, "unsafe": 0.1 * effect},
        "toward NULL": {"safe": 0.0, "unsafe": toward},
        "weak inputs": {"safe": [0.1, 0.1], "unsafe": list(weak)},
        "weak inputs, random": 0.45,
        "gain": {"safe": [2.0, 2.0], "unsafe": list(gain)},
    }


def result(
    safe=1.0, direct=(0.0, 1.0), mixed=0.0, ood=0.0, tokens=0.0, apart=0.4, sharp=1.0, near=0.9, soft=0.9,
    beyond=(1.0, 0.2), column=1.0, kept=0.95, cosine=1.0, **of_weights,
) -> dict:  # fmt: skip
    """What one job measures; the defaults of a fine-tuned model that refuses and is not broken."""
    behaviour = {kind: written(refuses=1.0) for kind in KINDS[1:]}
    behaviour |= {
        "safe": written(safe),
        "unsafe": written(*direct),
        "competing-text": written(mixed, 1 - mixed),
        "mismatched-text": written(ood, 1 - ood),
        "mismatched-token": written(tokens, 1 - tokens),
    }
    at = {
        "safe": written(1.0),
        "unsafe": written(refuses=1.0),
        "mismatched-text": written(ood),
        "competing-text": written(mixed),
    }
    alpha = {str(a): deepcopy(at) for a in ALPHAS}
    alpha["1.25"]["safe"], alpha["1.25"]["mismatched-text"] = written(beyond[0]), written(beyond[1])
    parts = ("up in the column space", "up in the null space", "MLPs alone")
    return {
        "behaviour": behaviour,
        "clusters": [
            {"separation": apart, "auc": 0.9, "auc, matched": 0.9, "top share": {"safe": 0.2, "unsafe": 0.3}}
        ] * 2,
        "sensitivity": {
            name: {"gradient": [value] * 3, "jacobian": [value]}
            for name, value in (("safe", 10.0), ("unsafe", 10 * sharp))
        },
        "weights": [layer(**of_weights)] * 2,
        "nearness": {
            kind: {"complied": 0.1, "refused": -0.1, "auc": near}
            for kind in ("competing-task", "competing-text", "mismatched-text")
        },
        "alpha": alpha,
        "parts": {part: {"unsafe": written(refuses=column), "safe": written(1.0)} for part in parts},
        "soft": {on: dict.fromkeys(("0.5", "1.0", "3.0"), soft) for on in ("M, unsafe text", "unsafe")},
        "relearned": {"unsafe": written(refuses=kept), "mismatched-text": written(0.9)},
        "cosine": {
            when: {"unlearning, dpo": cosine, "unlearning, dpo-standard": cosine} for when in ("before", "after")
        },
    }  # fmt: skip


def base(**changes) -> dict:
    return result(direct=(1.0, 0.0), mixed=1.0, ood=1.0, tokens=1.0, **changes) | {
        "behaviour": {kind: written(changes.get("safe", 1.0)) for kind in KINDS[1:]}
    }


def control(**changes) -> dict:
    return result(**({"direct": (1.0, 0.0), "mixed": 1.0, "ood": 1.0, "tokens": 1.0} | changes))


def world(**changes) -> dict[str, dict[int, dict]]:
    """All arms of six seeds in which every sentence of the paper holds, with some replaced."""
    strong = {"apart": 2.0, "sharp": 0.1, "effect": 1.8, "share": 0.9, "column": 0.2}
    arms = {
        "base": base(),
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
    arms |= {name.replace("_", "-"): found for name, found in changes.items()}
    return {name: {s: deepcopy(found) for s in range(6)} for name, found in arms.items() if found is not None}


def verdict(claim: str, **changes) -> str:
    (found,) = (one.verdict for one in judge(world(**changes), 1 / 12) if one.id == claim)
    return found


def test_nothing_measured_leaves_every_claim_open():
    assert {claim.id: claim.verdict for claim in judge({}, 1 / 12) if claim.verdict != "open"} == WITHDRAWN


WITHDRAWN = {"dpo-is-unlearning": "withdrawn"}


def test_in_a_world_made_like_the_paper_every_claim_holds():
    assert {claim.id: claim.verdict for claim in judge(world(), 1 / 12) if claim.verdict != "holds"} == WITHDRAWN


def test_what_counts_as_complying_follows_from_the_number_of_letters():
    ids = ("jailbreak-success", "jailbreak-tokens", "soft-tokens")
    arms = world(ssft=result(**GOOD | {"mixed": 0.3, "ood": 0.45, "tokens": 0.45, "soft": 0.6}))
    many, few = ({one.id: one.verdict for one in judge(arms, guess)} for guess in (1 / 12, 1 / 4))
    assert [many[id] for id in ids] == ["holds"] * 3
    assert [few[id] for id in ids] == ["fails"] * 3


def test_what_no_arm_measured_is_no_nought():
    found = {one.id: one.details for one in judge({}, 1 / 12)}
    assert found["extrapolate"]["right on safe prompts at 1.25, mean"] is None
    assert found["null-space"]["spread of chance"] is None


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
        ("jailbreak-success", {"ssft": result(**GOOD | {"ood": 0.3})}),
        ("jailbreak-success", {"ssft": result(**GOOD | {"direct": (0.03, 0.97)})}),
        ("jailbreak-tokens", {"ssft": result(**GOOD | {"tokens": 0.3})}),
        ("jailbreak-rate", {"ssft_small": result(mixed=0.5, ood=0.7)}),
        ("jailbreak-near-safe", {"ssft": result(**GOOD | {"near": 0.79})}),
        ("clusters", {"dpo": result(**STRONG | {"apart": 1.5})}),
        ("clusters", {"ssft": result(**GOOD | {"apart": 0.5})}),
        ("clusters", {"ssft": result(**GOOD | {"apart": 3.0})}),
        ("clusters-ssft", {"ssft": result(**GOOD | {"apart": 0.5})}),
        ("sensitivity", {"unlearning": result(**STRONG | {"sharp": 0.31})}),
        ("null-space", {"control": control(share=0.9)}),
        ("null-space", {"ssft": result(**GOOD | {"share": 0.76})}),
        ("null-direction", {"ssft": result(**GOOD | {"toward": 0.39})}),
        ("null-direction", {"control": control(toward=0.2)}),
        ("null-space-regime", {"ssft_wide": result(), "unlearning_wide": result(), "unlearning_decay": result(),
                               "ssft": result(**GOOD | {"share": 0.75}),
                               "unlearning": result(**STRONG | {"share": 0.75})}),
        ("dw-on-unsafe", {"dpo": result(**STRONG | {"effect": 1.3})}),
        ("dw-on-unsafe", {"ssft": result(**GOOD | {"effect": 1.1})}),
        ("dw-on-unsafe", {"control": control(effect=1.1)}),
        ("null-space-inputs", {"ssft_decay": result(weak=(0.1, 0.19), gain=(2.0, 1.7))}),
        ("null-space-inputs", {"ssft_decay": result(weak=(0.1, 0.3), gain=(2.0, 1.97))}),
        ("null-space-inputs", {"control_decay": control(weak=(0.1, 0.14))}),
        ("null-space-inputs", {"control_decay": control(gain=(2.0, 2.1))}),
        ("extrapolate", {"ssft": result(**GOOD | {"beyond": (0.96, 0.2)})}),
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
