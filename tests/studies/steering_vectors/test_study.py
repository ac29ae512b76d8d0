"""Laws of the jobs and the settings of the steering study."""

from dataclasses import replace

import pytest

from toylab.runs.study import by_condition
from toylab.studies.steering_vectors.data import MODEL
from toylab.studies.steering_vectors.study import SteeringVectorsStudy
from toylab.tasks import Reasoning

# Jobs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["quick", "default", "paper"])
def test_every_job_comes_after_the_bases_and_needs_only_jobs_of_the_run(preset):
    study = getattr(SteeringVectorsStudy, preset)()
    jobs = study.jobs()
    assert all(need in jobs for job in jobs for need in job.needs)
    assert all(job.needs for job in jobs if not job.name.startswith("base"))
    done, left = set(), list(jobs)
    while left:
        ready = [job for job in left if set(job.needs) <= done]
        assert ready, "jobs wait for each other"
        done |= set(ready)
        left = [job for job in left if job not in done]


def test_parts_that_are_not_asked_for_are_not_trained():
    names = {job.name for job in SteeringVectorsStudy(parts=()).jobs()}
    single = {f"vector-{layer}" for layer in range(4)}
    assert names == {"base", "full", "joint", "random-reward", "baselines", "paths"} | single


def test_a_single_seed_has_no_other_model():
    assert not [job for job in SteeringVectorsStudy(seeds=(5,)).jobs() if job.name.startswith("transfer-from-")]


def test_transfer_from_the_next_seed_is_one_condition():
    found = by_condition({job: job.what.keywords for job in SteeringVectorsStudy(seeds=(5, 6, 7)).jobs()})
    assert found["transfer-from"] == {seed: {"layers": (2, 3)} for seed in (5, 6, 7)}
    assert found["transfer-apart"] == {seed: {"layers": (3,)} for seed in (5, 6, 7)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, r"seeds=\(\): give at least one"),
        ({"seeds": (2, 2)}, r"seeds=\(2, 2\): .*all different"),
        ({"rows": 8}, "rows=8: must be at least 64"),
        ({"samples": 1}, "samples=1: .*at least 2"),
        ({"adaptive_steps": -1}, "adaptive_steps=-1: must be at least 0"),
        ({"full_rate": 0.0}, "full_rate=0.0: must be above 0"),
        ({"cosines": (1.5,)}, r"cosines=\(1.5,\): must be at least 0 and at most 1"),
        ({"task": Reasoning(flag=True)}, "task.flag: .*--parts flag"),
        ({"model": replace(MODEL, norm="post")}, "model: .*pre-norm"),
        ({"model": replace(MODEL, layers=1)}, "model: .*2 layers"),
        ({"model": replace(MODEL, unembedding="none")}, "model.unembedding=none"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_a_remedy(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SteeringVectorsStudy(**change)
