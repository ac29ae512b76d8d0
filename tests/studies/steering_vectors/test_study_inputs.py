"""Laws of the jobs of the steering study: what each one starts from, what it does, and what it leaves to others."""

from functools import partial

from toylab.studies.steering_vectors import experiments
from toylab.studies.steering_vectors.bases import pretrain_base
from toylab.studies.steering_vectors.study import SteeringVectorsStudy

STUDY = SteeringVectorsStudy(seeds=(5, 8, 6))
JOBS = {(job.name, job.seed): job for job in STUDY.jobs()}


def told(name: str, seed: int = 5) -> tuple:
    """What a job does, with which settings, and the files that it starts from."""
    job = JOBS[name, seed]
    assert isinstance(job.what, partial)
    assert not job.what.args
    files = {key: f"{one.job.name}-of-{one.job.seed}/{one.file}" for key, one in job.inputs.items()}
    return job.what.func, job.what.keywords, files


def model(name: str = "base", seed: int = 5) -> str:
    return f"{name}-of-{seed}/model.safetensors"


def vector(name: str, seed: int = 5) -> str:
    return f"{name}-of-{seed}/vector.safetensors"


def test_bases_start_from_nothing():
    assert told("base") == (pretrain_base, {}, {})
    for which in ("learned", "apart", "flag"):
        assert told(f"base-{which}") == (pretrain_base, {"variant": which}, {})


def test_each_vector_is_trained_on_its_base_and_examined_in_the_last_two_layers():
    base = {"base": model()}
    for layer, examine in enumerate((False, False, True, True)):
        assert told(f"vector-{layer}") == (experiments.train_vector, {"layer": layer, "examine": examine}, base)
    learned, apart = ({"base": model(f"base-{which}")} for which in ("learned", "apart"))
    assert told("vector-learned") == (experiments.train_vector, {"layer": 3, "refuse": False}, learned)
    assert told("vector-apart") == (experiments.train_vector, {"layer": 3}, apart)
    for name, does in {
        "full": experiments.train_full, "joint": experiments.train_joint, "adaptive": experiments.train_adaptive,
    }.items():  # fmt: skip
        assert told(name) == (does, {}, base)


def test_what_is_measured_on_a_vector_is_of_the_last_layer_or_of_the_one_before():
    base = {"base": model()}
    last, before = (base | {"vector": vector(f"vector-{layer}")} for layer in (3, 2))
    assert told("random-reward") == (
        experiments.train_vector,
        {"layer": 3, "examine": True, "random_reward": True},
        base,
    )
    rewarded = last | {"random-reward": vector("random-reward")}
    assert told("baselines") == (experiments.compare_baselines, {}, rewarded)
    assert told("family") == (experiments.transfer_to_child, {}, last)
    assert told("paths") == (experiments.cut_paths, {}, before)
    assert told("features") == (experiments.find_features, {}, before)
    every = base | {f"vector-{layer}": vector(f"vector-{layer}") for layer in range(4)}
    assert told("combine") == (experiments.combine_layers, {}, every)


def test_another_model_is_the_next_seed_or_the_one_apart():
    for seed, donor in ((5, 8), (8, 6), (6, 5)):
        own = {f"own-{layer}": vector(f"vector-{layer}", seed) for layer in (2, 3)}
        theirs = {f"theirs-{layer}": vector(f"vector-{layer}", donor) for layer in (2, 3)}
        files = {"base": model(seed=seed), "donor": model(seed=donor)} | own | theirs
        assert told(f"transfer-from-{donor}", seed) == (experiments.transfer, {"layers": (2, 3)}, files)
    files = {
        "base": model(), "donor": model("base-apart"), "own-3": vector("vector-3"), "theirs-3": vector("vector-apart"),
    }  # fmt: skip
    assert told("transfer-apart") == (experiments.transfer, {"layers": (3,)}, files)


def test_openers_are_turned_in_the_skill_and_flagged_trainings_have_their_base():
    for cosine in (0.8, 0.95):
        skill = {"skill": "base-of-5/skill.safetensors"}
        assert told(f"cosine-{cosine}") == (experiments.turn_openers, {"cosine": cosine}, skill)
    for which in ("gate", "full", "scale", "before", "last"):
        base = {"base": model("base-flag")}
        assert told(f"flag-{which}") == (experiments.train_flagged, {"training": which}, base)


def test_all_conditions_are_run_on_all_seeds():
    conditions = {
        seed: {job.condition or job.name for job in JOBS.values() if job.seed == seed} for seed in STUDY.seeds
    }
    assert conditions[5] == conditions[8] == conditions[6]
    assert {"base-learned", "base-apart", "base-flag", "vector-learned", "transfer-apart", "flag-gate"} < conditions[8]
