"""Laws of the steering study: jobs come after what they need, and made-up findings get the verdicts they deserve."""

from copy import deepcopy
from dataclasses import replace

import pytest

from toylab.studies.steering_vectors.claims import judge
from toylab.studies.steering_vectors.data import MODEL
from toylab.studies.steering_vectors.figures import draw
from toylab.studies.steering_vectors.quantities import fractions, swept
from toylab.studies.steering_vectors.study import SteeringVectorsStudy
from toylab.tasks import Reasoning

LAST = 3
SEEDS = tuple(range(6))


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
    assert names == {"base", "full", "joint", "baselines", "paths", *(f"vector-{layer}" for layer in range(4))}


def test_controls_are_trained_on_the_first_seeds_alone():
    jobs = SteeringVectorsStudy(seeds=(5, 6, 7), control_seeds=2).jobs()
    for name in ("base-learned", "vector-learned", "base-apart", "cosine-0.8", "flag-gate"):
        assert {job.seed for job in jobs if job.name == name} == {5, 6}


def test_transfer_goes_round_all_seeds():
    jobs = [job for job in SteeringVectorsStudy(seeds=(5, 6, 7)).jobs() if job.name.startswith("transfer-from-")]
    assert {(job.seed, *sorted({need.seed for need in job.needs} - {job.seed})) for job in jobs} == {
        (5, 6), (6, 7), (7, 5),
    }  # fmt: skip
    assert all(job.name == f"transfer-from-{job.needs[-1].seed}" for job in jobs)
    assert not [job for job in SteeringVectorsStudy(seeds=(5,)).jobs() if job.name.startswith("transfer-from-")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, r"seeds=\(\): give at least one"),
        ({"seeds": (2, 2)}, r"seeds=\(2, 2\): .*all different"),
        ({"control_seeds": 9}, "control_seeds=9: must be from 0"),
        ({"rows": 8}, "rows=8: must be at least 64"),
        ({"samples": 1}, "samples=1: .*at least 2"),
        ({"adaptive_steps": 0}, "adaptive_steps=0: must be at least 1"),
        ({"full_rate": 0.0}, "full_rate=0.0: must be a positive number"),
        ({"cosines": (1.5,)}, r"cosines=\(1.5,\): must be from 0"),
        ({"task": Reasoning(flag=True)}, "task.flag: .*--parts flag"),
        ({"model": replace(MODEL, norm="post")}, "model: .*pre-norm"),
        ({"model": replace(MODEL, layers=1)}, "model: .*2 layers"),
        ({"model": replace(MODEL, unembedding="none")}, "model.unembedding=none"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_a_remedy(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SteeringVectorsStudy(**change)


# Verdicts on findings that are made up -------------------------------------------------------------------------------


def answers(greedy=1.0, cool=0.9, free=0.8) -> dict:
    right = {"0": greedy, "0.7": cool, "1": free}
    return {t: {"right": r, "thinks": 1.0, "flagged_thinks": 0.1} for t, r in right.items()}


def lens(think=1, direct=21) -> dict:
    return {
        "THINK": {"cosine": 0.6, "rank": think},
        "DIRECT": {"cosine": -0.5, "rank": direct},
        "THINK over DIRECT": 0.8,
        "first dialect": 0.1,
        "second dialect": -0.1,
        "all": [0.0] * 21,
    }


def vector(layer) -> dict:
    found = {
        "answers": answers(free=0.63 + 0.04 * layer),
        "norm": 15.0,
        "kl": [1.6, 0.2, 0.2],
        "lens": lens(),
        "difference lens": lens(),
        "few": {"base": 0.2, "steered": 0.75},
        "places": {"first": 0.65, "all but first": 0.22, "first two": 0.7, "prompt": 0.2, "generated": 0.75},
    }
    return found | ({"clean scale": 0.8, "scaled": {"0.5": 0.5}} if layer == LAST else {})


def check(cosine=0.0, bound=6.0) -> dict:
    return {"cosine": cosine, "bound": bound, "distance": 2.8, "length": 50.0}


def base(cosine=0.0, bound=6.0) -> dict:
    same = {"answers": answers(0.14, 0.17, 0.2), "prefix": answers(1.0, 0.8, 0.62), "direct": answers(0.14, 0.14, 0.14)}
    return same | {"chain": 1.0, "pre-flight": check(cosine, bound)}


ROUTES = {"skip query": 0.7, "skip attention": 0.7, "skip MLP": 0.69, "skip block": 0.69, "skip unembedding": 0.2}
FEATURE = {
    "difference": 0.5,
    "chance": 0.1,
    "trivial difference": 0.6,
    "format difference": 0.2,
    "auc": 0.75,
    "agreement": 0.9,
}


def world() -> dict:
    """Findings of the kind that training gives, six seeds alike."""
    combined = {f"{i}+{j}": {"1": 0.1, "0.5": 0.74} for i in range(4) for j in range(i + 1, 4)}
    baselines = {
        name: {"0": free, "0.7": free, "1": free, "cosine": 0.0, "norm": 5.0}
        for name, free in {"random reward": 0.2, "minus": 0.14, "difference of means": 0.14, "logit bias": 0.85}.items()
    }
    before = {"base": 0.2, "steered": 0.75}
    again = {"0": 1.0, "0.7": 0.9, "1": 0.75, "cosine": 0.99}
    sizes = {"digits": 9.0, "SEP": 40.0, "opener": 20.0, "chain": 10.0, "by position": [0.0, 1.0]}
    carried = {"own": 0.75, "raw": 0.73, "mapped": 0.73, "cosine": 0.95}
    one = {
        "base": base(),
        "full": {"answers": answers(free=1.0)},
        "joint": {"answers": answers(free=0.85), "norms": [5.0] * 4},
        **{f"vector-{layer}": vector(layer) for layer in range(4)},
        "paths": {
            "routes": ROUTES,
            "base": 0.2,
            "steered": 0.7,
            "forced": {"0": 1.0, "0.7": 0.6, "1": 0.5},
            "forced norm": 25.0,
        },
        "combine": {
            "alone": {str(layer): 0.7 for layer in range(4)},
            "combined": combined | {"0+1+2+3": {"1": 0.0, "0.5": 0.05, "0.25": 0.75}},
            "persistence": {"0": {"3": {"to mean": 0.9, "to vector": 0.7}}},
        },
        "baselines": baselines | before | {"random vectors": [0.19, 0.21], "another run": again},
        "adaptive": {
            "answers": answers(free=0.85),
            "constant, as long": answers(free=0.78),
            "scales": sizes,
            "SEP alone": 0.6,
            "all but SEP": 0.2,
        },
        "family": {
            "base": 0.2, "own": 0.7, "of the parent": 0.66, "parent": 0.2, "parent, own": 0.75,
            "parent with that of the child": 0.72, "cosine": 0.95, "weight change": 0.05,
        },
        "transfer-from-9": {"base": 0.2, "2": carried, "3": carried},
        "transfer-apart": {"base": 0.2, "3": carried | {"raw": 0.25}},
        "base-learned": base(0.98, 0.5),
        "vector-learned": {"answers": answers(free=0.25), "lens": lens(7, 20)},
        "cosine-0.9": base(0.9, 2.5) | {"vector": answers(free=0.4)},
        "base-flag": base() | {"prefix DIRECT": answers(free=0.57)},
        "flag-before": {"answers": answers(free=0.56), "routes": dict.fromkeys(ROUTES, 0.55), "steered": 0.56},
        "flag-last": {"answers": answers(free=0.57)},
        "flag-gate": {"answers": answers(free=0.93)},
        "flag-scale": {"answers": answers(free=0.57)},
        "flag-full": {"answers": answers(free=0.99)},
        "features": {"plain": FEATURE | {"auc": 0.8}, "difference": FEATURE},
    }  # fmt: skip
    return {name: {seed: deepcopy(found) for seed in SEEDS} for name, found in one.items()}


FAIL_HERE = {
    "fraction-match", "lens-trap", "persistence-other", "penultimate-mlp", "combine", "prompt-bit-mlp", "features",
    "difference-sae",
}  # fmt: skip
"""What fails in the made-up world."""


def verdicts(arms, guess=1 / 7, enough=3) -> dict[str, str]:
    return {claim.id: claim.verdict for claim in judge(arms, LAST, guess, enough)}


def put(path: str, value):
    """A change of the made-up world: the same value in all seeds, at a path of names divided by slashes."""

    def change(arms):
        arm, *names, last = path.split("/")
        for found in arms[arm].values():
            for name in names:
                found = found[name]
            found[last] = value

    return change


def test_the_made_up_world_is_judged_as_it_was_made():
    found = verdicts(world())
    assert {id for id, verdict in found.items() if verdict == "fails"} == FAIL_HERE
    assert {id for id, verdict in found.items() if verdict not in ("holds", "fails")} == {"persistence"}
    assert found["persistence"] == "withdrawn"


def test_bars_follow_from_the_number_of_states_and_the_least_shift():
    arms = world()
    assert verdicts(arms, guess=1 / 4)["base"] == "fails"
    put("base/answers/1/right", 0.33)(arms)
    assert (verdicts(arms)["base"], verdicts(arms, guess=1 / 4)["base"]) == ("fails", "holds")
    put("flag-last/answers/1/right", 0.68)(arms)
    put("flag-gate/answers/1/right", 0.78)(arms)
    few, many = verdicts(arms), verdicts(arms, guess=1 / 4)
    assert (few["prompt-bit-constant"], many["prompt-bit-constant"]) == ("fails", "holds")
    assert (few["prompt-bit-gate"], many["prompt-bit-gate"]) == ("holds", "fails")
    assert (verdicts(arms)["pre-flight"], verdicts(arms, enough=2)["pre-flight"]) == ("holds", "fails")
    put("cosine-0.9/pre-flight/cosine", 0.1)(arms)
    put("base-learned/pre-flight/cosine", 0.2)(arms)
    assert verdicts(arms)["separability"] == "open"


@pytest.mark.parametrize(
    ("id", "change"),
    [
        ("base-chain", put("base/chain", 0.9)),
        ("base", put("base/answers/1/right", 0.3)),
        ("full-rl", put("full/answers/1/right", 0.9)),
        ("greedy", put("vector-1/answers/0/right", 0.9)),
        ("fraction-match", put("joint/answers/1/right", 0.99)),
        ("fraction-large", put("vector-0/answers/1/right", 0.5)),
        ("depth-order", put("joint/answers/1/right", 0.74)),
        ("depth-order", put("vector-0/answers/1/right", 0.76)),
        ("prefix", put("base/prefix/1/right", 0.4)),
        ("prefix", put("base/prefix/1/right", 0.9)),
        ("first-token", put("vector-3/places/first", 0.4)),
        ("first-token-rest", put("vector-3/places/all but first", 0.4)),
        ("first-token-kl", put("vector-3/kl", [1.0, 1.0])),
        ("norm-temperature", put("vector-3/clean scale", 0.7)),
        ("logit-lens", put("vector-3/lens/THINK/rank", 2)),
        ("lens-trap", put("vector-learned/lens", lens())),
        ("suppression", put("vector-0/lens/second dialect", 0.2)),
        ("persistence-other", put("combine/persistence/0/3/to vector", 0.3)),
        ("skip-attention", put("paths/routes/skip attention", 0.5)),
        ("penultimate-mlp", put("paths/routes/skip MLP", 0.5)),
        ("direct-route", put("paths/routes/skip unembedding", 0.5)),
        ("forced-route", put("paths/forced/0", 0.5)),
        ("separability", put("vector-learned/answers/1/right", 0.7)),
        ("pre-flight", put("cosine-0.9/pre-flight/bound", 4.0)),
        ("transfer-family", put("family/of the parent", 0.3)),
        ("transfer-seeds", put("transfer-from-9/3/raw", 0.3)),
        ("transfer-apart", put("transfer-apart/3/raw", 0.7)),
        ("transfer-mapped", put("transfer-apart/3/mapped", 0.3)),
        ("combine-halved", put("combine/combined", {"0+1": {"1": 0.1, "0.5": 0.5}})),
        ("combine", put("combine/combined", {"0+1": {"1": 0.9, "0.5": 0.5}})),
        ("adaptive", put("adaptive/constant, as long/1/right", 0.84)),
        ("adaptive-place", put("adaptive/scales/digits", 50.0)),
        ("prompt-bit-constant", put("flag-last/answers/1/right", 0.7)),
        ("prompt-bit-gate", put("flag-gate/answers/1/right", 0.7)),
        ("prompt-bit-full", put("flag-full/answers/1/right", 0.7)),
        ("prompt-bit-mlp", put("flag-before/routes/skip MLP", 0.4)),
        ("features", put("features/difference/trivial difference", 0.3)),
        ("difference-sae", put("features/difference/auc", 0.9)),
        ("random-vector", put("baselines/random vectors", [0.3, 0.3])),
        ("random-reward", put("baselines/random reward/1", 0.3)),
        ("same-vector", put("baselines/another run/cosine", 0.9)),
        ("difference-of-means", put("baselines/difference of means/1", 0.4)),
        ("logit-bias", put("baselines/logit bias/1", 0.6)),
    ],
)
def test_each_claim_turns_when_its_finding_does(id, change):
    arms = world()
    before = verdicts(arms)[id]
    change(arms)
    after = verdicts(arms)
    assert {before, after[id]} == {"holds", "fails"}


def test_what_was_not_measured_is_open():
    assert {id for id, verdict in verdicts({}).items() if verdict != "open"} == {"persistence"}
    found = verdicts({name: held for name, held in world().items() if name in ("base", "full")})
    assert {id for id, verdict in found.items() if verdict in ("holds", "fails")} == {"base", "base-chain", "full-rl"}


def test_a_difference_that_one_seed_makes_is_not_sure():
    arms = world()
    for seed, right in zip(SEEDS, (1.0, 0.74, 0.74, 0.74, 0.74, 0.74), strict=True):
        arms["baselines"][seed]["logit bias"]["1"] = right
    assert verdicts(arms)["logit-bias"] == "fails"


def test_fractions_run_from_the_base_to_full_training():
    arms = world()
    assert fractions(arms, "base") == dict.fromkeys(SEEDS, 0)
    assert fractions(arms, "full") == dict.fromkeys(SEEDS, 1)
    assert fractions(arms, "vector-3")[0] == pytest.approx((0.75 - 0.2) / (1 - 0.2))


def test_the_sweep_is_sorted_by_cosine_and_holds_the_learned_unembedding():
    for points in swept(world(), LAST).values():
        assert [point[0] for point in points] == [0.0, 0.9, 0.98]
        assert points[-1][2] == pytest.approx((0.25 - 0.2) / (1 - 0.2))


def test_every_figure_is_drawn_and_those_without_results_are_left_out():
    drawn = draw(world(), Reasoning(), LAST)
    assert len(drawn) == len({picture.title for picture in drawn}) == 7
    assert draw({}, Reasoning(), LAST) == []
