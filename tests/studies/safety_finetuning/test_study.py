"""Laws of the safety study: conditions differ by what their name says, and jobs start from what they name."""

from dataclasses import replace

import pytest

from toylab.studies.safety_finetuning.data import MODEL
from toylab.studies.safety_finetuning.study import METHODS, SafetyFinetuningStudy
from toylab.tasks import TaskConcept
from toylab.training.losses import DPO, NPO, RefusalLoss, Unlearning

ALL = SafetyFinetuningStudy(parts=("standard", "small-rate", "decay", "more", "regime"))


# Arms and jobs -------------------------------------------------------------------------------------------------------


def test_methods_share_one_base_and_differ_in_nothing_but_the_method():
    conditions = ALL.conditions()
    for method in METHODS:
        assert conditions[method] == replace(conditions["control"], method=method)
    assert conditions["control"].base == "base"


def test_a_small_rate_changes_the_rate_alone():
    conditions = ALL.conditions()
    for method in ("ssft", "dpo", "unlearning"):
        train = conditions[f"{method}-small"].train
        assert train.learning_rate == ALL.small_rate
        assert replace(train, learning_rate=ALL.finetune.learning_rate) == conditions[method].train


def test_every_base_of_the_map_differs_from_the_default_in_one_thing():
    plain = ALL.bases()["base"]
    for name, base in ALL.bases().items():
        if name != "base":
            changed = [base.model != plain.model, base.train != plain.train]
            assert sum(changed) == 1, name
    assert ALL.bases()["base-decay"].train.weight_decay == ALL.decay
    assert ALL.bases()["base-wide"].model.hidden == 2 * 4 * MODEL.width
    assert ALL.bases()["base-deep"].model.layers == MODEL.layers + 1


def test_every_condition_starts_from_its_base_which_comes_before_it_in_the_order_of_jobs(tmp_path):
    for study in (ALL, SafetyFinetuningStudy.quick(), SafetyFinetuningStudy.default()):
        jobs = study.jobs()
        for number, job in enumerate(jobs):
            if job.name in study.bases():
                assert job.needs == ()
                assert job.what == study.bases()[job.name]
            else:
                (before,) = job.needs
                assert before in jobs[:number]
                assert (before.name, before.seed) == (study.conditions()[job.name].base, job.seed)
                assert job.path("base", job.folder(tmp_path)) == before.folder(tmp_path) / "model.safetensors"


def test_all_is_measured_of_the_methods_on_the_first_base_and_no_more_of_others():
    assert [name for name, condition in ALL.conditions().items() if condition.main] == list(METHODS)
    assert [name for name, base in ALL.bases().items() if base.main] == ["base"]


def test_every_cell_of_the_map_has_a_control_of_its_own():
    conditions = ALL.conditions()
    for suffix in ("-decay", "-strong-decay", "-wide", "-deep", "-long", "-four-times", "-smallest", "-rank-1"):
        control, *others = (conditions[f"{m}{suffix}"] for m in ("control", "ssft", "unlearning"))
        assert all(replace(one, method="control") == control for one in others)


def test_parts_that_are_not_asked_for_are_not_trained():
    assert set(SafetyFinetuningStudy(parts=()).conditions()) == set(METHODS) - {"npo", "dpo-standard"}
    assert set(SafetyFinetuningStudy(parts=()).bases()) == {"base"}


@pytest.mark.parametrize(
    ("method", "kind"),
    [("control", RefusalLoss), ("ssft", RefusalLoss), ("unlearning", Unlearning), ("dpo", DPO), ("dpo-standard", DPO),
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
        ({"unsafe_share": 0}, "unsafe_share=0: must be above 0 and below 1"),
        ({"attack_steps": 0}, "attack_steps=0: must be at least 1"),
        ({"relearning_steps": 0}, "relearning_steps=0: must be at least 1"),
        ({"dpo_beta": 0}, "dpo_beta=0: must be above 0"),
        ({"dpo_anchor": -1.0}, "dpo_anchor=-1.0: must be at least 0"),
        ({"decay": -0.5}, "decay=-0.5: must be at least 0"),
        ({"small_rate": 0.0}, "small_rate=0.0: must be above 0"),
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
