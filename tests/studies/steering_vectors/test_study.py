"""Laws of the steering study: jobs come after what they need, and made-up findings get the verdicts they deserve."""

import json
from dataclasses import replace

import pytest

from toylab.model.steering import PreFlight
from toylab.runs.study import by_condition
from toylab.settings import as_json, fit
from toylab.studies.steering_vectors.data import MODEL, Answers
from toylab.studies.steering_vectors.figures import draw
from toylab.studies.steering_vectors.results import (
    AdaptiveResult,
    Baseline,
    BaselinesResult,
    BaseResult,
    Carried,
    Combination,
    CombineResult,
    FamilyResult,
    FeatureResult,
    FeaturesResult,
    FlagResult,
    FullResult,
    JointResult,
    LensReading,
    Pair,
    PathsResult,
    Persistence,
    Temperatures,
    TokenReading,
    TokenScales,
    TransferResult,
    VectorResult,
)
from toylab.studies.steering_vectors.separability import SeparabilityResult
from toylab.studies.steering_vectors.study import SteeringVectorsStudy
from toylab.tasks import Reasoning
from toylab.verdicts.claim import Conditions, judge_claims

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


def test_a_single_seed_has_no_other_model():
    assert not [job for job in SteeringVectorsStudy(seeds=(5,)).jobs() if job.name.startswith("transfer-from-")]


def test_transfer_from_the_next_seed_is_one_condition():
    found = by_condition({job: job.what.keywords for job in SteeringVectorsStudy(seeds=(5, 6, 7)).jobs()})
    assert found["transfer-from"] == {seed: {"layers": (2, 3)} for seed in (5, 6, 7)}
    assert found["transfer-apart"] == {5: {"layers": (3,)}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, r"seeds=\(\): give at least one"),
        ({"seeds": (2, 2)}, r"seeds=\(2, 2\): .*all different"),
        ({"control_seeds": 9}, "control_seeds=9: must be at least 0 and at most"),
        ({"rows": 8}, "rows=8: must be at least 64"),
        ({"samples": 1}, "samples=1: .*at least 2"),
        ({"adaptive_steps": 0}, "adaptive_steps=0: must be at least 1"),
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


# Verdicts on findings that are made up -------------------------------------------------------------------------------


def answers(greedy=1.0, cool=0.9, free=0.8) -> Temperatures:
    shares = {"thinks": 1.0, "dialect": 0.0, "right_if_thinks": 1.0, "flagged_right": 0.0, "flagged_thinks": 0.1}
    return {t: Answers(right=right, **shares) for t, right in ((0, greedy), (0.7, cool), (1, free))}


def lens(think=1, direct=21) -> LensReading:
    return LensReading(
        THINK=TokenReading(cosine=0.6, rank=think),
        DIRECT=TokenReading(cosine=-0.5, rank=direct),
        ANS=TokenReading(cosine=0.0, rank=9),
        think_over_direct=0.8,
        first_dialect=0.1,
        second_dialect=-0.1,
        all=[0.0] * 21,
    )


def vector(layer) -> VectorResult:
    found = VectorResult(
        answers=answers(free=0.63 + 0.04 * layer),
        norm=15.0,
        kl=[1.6, 0.2, 0.2],
        lens=lens(),
        difference_lens=lens(),
        few=Pair(base=0.2, steered=0.75),
        places={"first": 0.65, "all but first": 0.22, "first two": 0.7, "prompt": 0.2, "generated": 0.75},
    )
    return replace(found, clean_scale=0.8, scaled={0.5: 0.5}) if layer == LAST else found


def base(cosine=0.0, bound=6.0) -> BaseResult:
    return BaseResult(
        chain=1.0,
        answers=answers(0.14, 0.17, 0.2),
        prefix=answers(1.0, 0.8, 0.62),
        direct=answers(0.14, 0.14, 0.14),
        pre_flight=PreFlight(cosine=cosine, distance=2.8, length=50.0, bound=bound),
    )


def baseline(*right, cosine=None, norm=None) -> Baseline:
    return Baseline(right=dict(zip((0, 0.7, 1), right, strict=True)), cosine=cosine, norm=norm)


ROUTES = {"skip query": 0.7, "skip attention": 0.7, "skip MLP": 0.69, "skip block": 0.69, "skip unembedding": 0.2}
FEATURE = FeatureResult(
    feature=3, inside=0.7, outside=0.2, difference=0.5, chance=0.1, agreement=0.9, explained_variance=0.8, dead=0.1,
    trivial_difference=0.6, format_difference=0.2, auc=0.75,
)  # fmt: skip
SCALES = TokenScales(
    BOS=90.0, digits=9.0, SEP=40.0, opener=20.0, chain=10.0, sep_signed=40.0, opener_signed=20.0, chain_signed=-10.0,
    by_position=[0.0, 1.0],
)  # fmt: skip
FAMILY = FamilyResult(
    base=0.2, own=0.7, of_the_parent=0.66, parent=0.2, parent_own=0.75, parent_with_that_of_the_child=0.72,
    cosine=0.95, weight_change=0.05,
)  # fmt: skip
CARRIED = Carried(own=0.75, cosine=0.95, raw=0.73, mapped=0.73)
ONE_SEED = {
    "base": base(),
    "full": FullResult(answers=answers(free=1.0)),
    "joint": JointResult(answers=answers(free=0.85), norms=[5.0] * 4),
    **{f"vector-{layer}": vector(layer) for layer in range(4)},
    "paths": PathsResult(routes=ROUTES, base=0.2, steered=0.7, forced={0: 1.0, 0.7: 0.6, 1: 0.5}, forced_norm=25.0),
    "combine": CombineResult(
        alone=dict.fromkeys(range(4), 0.7),
        combined=[
            *(Combination(layers=[i, j], right={1: 0.1, 0.5: 0.74}) for i in range(4) for j in range(i + 1, 4)),
            Combination(layers=[0, 1, 2, 3], right={1: 0.0, 0.5: 0.05, 0.25: 0.75}),
        ],
        persistence={0: {3: Persistence(to_mean=0.9, to_vector=0.7)}},
        cosines={},
    ),
    "baselines": BaselinesResult(
        base=0.2,
        steered=0.75,
        random_vectors=[0.19, 0.21],
        random_reward=baseline(0.2, 0.2, 0.2, cosine=0.0, norm=5.0),
        minus=baseline(0.14, 0.14, 0.14),
        difference_of_means=baseline(0.14, 0.14, 0.14, cosine=0.0),
        logit_bias=baseline(0.85, 0.85, 0.85),
        another_run=baseline(1.0, 0.9, 0.75, cosine=0.99),
    ),
    "adaptive": AdaptiveResult(
        answers=answers(free=0.85),
        constant=answers(free=0.78),
        scales=SCALES,
        sep_alone=0.6,
        all_but_sep=0.2,
    ),
    "family": FAMILY,
    "transfer-from": TransferResult(base=0.2, layers={2: CARRIED, 3: CARRIED}),
    "transfer-apart": TransferResult(base=0.2, layers={3: replace(CARRIED, raw=0.25)}),
    "base-learned": base(0.98, 0.5),
    "vector-learned": replace(vector(0), answers=answers(free=0.25), lens=lens(7, 20)),
    "cosine-0.9": SeparabilityResult(
        answers=answers(0.14, 0.17, 0.2), pre_flight=base(0.9, 2.5).pre_flight, vector=answers(free=0.4), norm=15.0
    ),
    "base-flag": replace(base(), prefix_direct=answers(free=0.57)),
    "flag-before": FlagResult(answers=answers(free=0.56), routes=dict.fromkeys(ROUTES, 0.55), steered=0.56),
    "flag-last": FlagResult(answers=answers(free=0.57)),
    "flag-gate": FlagResult(answers=answers(free=0.93)),
    "flag-scale": FlagResult(answers=answers(free=0.57)),
    "flag-full": FlagResult(answers=answers(free=0.99)),
    "features": FeaturesResult(plain=replace(FEATURE, auc=0.8), difference=FEATURE),
}
"""What training gives, by condition."""
STUDY = SteeringVectorsStudy(cosines=(0.9,))


def world() -> Conditions:
    """Findings of the kind that training gives, six seeds alike."""
    return Conditions({name: dict.fromkeys(SEEDS, found) for name, found in ONE_SEED.items()})


FAIL_HERE = {
    "fraction-match", "lens-trap", "lens-trap-rival", "persistence-other", "penultimate-mlp", "combine",
    "prompt-bit-mlp", "features", "difference-sae",
}  # fmt: skip
"""What fails in the made-up world."""


def verdicts(results, study=STUDY) -> dict[str, str]:
    return {claim.id: claim.verdict for claim in judge_claims(study.claims(), results)}


def changed(found, value, name, *names):
    """A result with another value at a path of attributes and keys."""
    if isinstance(found, dict):
        return found | {name: changed(found[name], value, *names) if names else value}
    return replace(found, **{name: changed(getattr(found, name), value, *names) if names else value})


def put(condition, value, *path):
    """A change of the made-up world: the same value in all seeds, at a path of attributes and keys."""

    def change(results):
        return Conditions(
            results | {condition: {seed: changed(one, value, *path) for seed, one in results[condition].items()}}
        )

    return change


def test_the_made_up_world_is_judged_as_it_was_made():
    found = verdicts(world())
    assert {id for id, verdict in found.items() if verdict == "fails"} == FAIL_HERE
    assert {id for id, verdict in found.items() if verdict not in ("holds", "fails")} == {"persistence"}
    assert found["persistence"] == "withdrawn"


def test_thresholds_follow_from_the_number_of_states_and_the_least_shift():
    fewer = replace(STUDY, task=Reasoning(p=4))
    assert verdicts(world(), fewer)["base"] == "fails"
    richer = put("base", 0.33, "answers", 1, "right")(world())
    assert (verdicts(richer)["base"], verdicts(richer, fewer)["base"]) == ("fails", "holds")
    flagged = put("flag-gate", 0.78, "answers", 1, "right")(put("flag-last", 0.68, "answers", 1, "right")(world()))
    many, few = verdicts(flagged), verdicts(flagged, fewer)
    assert (many["prompt-bit-constant"], few["prompt-bit-constant"]) == ("fails", "holds")
    assert (many["prompt-bit-gate"], few["prompt-bit-gate"]) == ("holds", "fails")
    assert verdicts(world())["pre-flight"] == "holds"
    assert verdicts(world(), replace(STUDY, least_shift=2))["pre-flight"] == "fails"


def test_separability_is_open_where_no_two_rows_are_close():
    apart = put("base-learned", 0.2, "pre_flight", "cosine")(put("cosine-0.9", 0.1, "pre_flight", "cosine")(world()))
    assert verdicts(apart)["separability"] == "open"
    alone = replace(STUDY, parts=("combine",))
    assert verdicts(world(), alone)["separability"] == verdicts(world(), alone)["pre-flight"] == "open"


@pytest.mark.parametrize(
    ("id", "change"),
    [
        ("base-chain", put("base", 0.9, "chain")),
        ("base", put("base", 0.3, "answers", 1, "right")),
        ("full-rl", put("full", 0.9, "answers", 1, "right")),
        ("greedy", put("vector-1", 0.9, "answers", 0, "right")),
        ("fraction-match", put("joint", 0.99, "answers", 1, "right")),
        ("fraction-large", put("vector-0", 0.5, "answers", 1, "right")),
        ("depth-joint", put("joint", 0.74, "answers", 1, "right")),
        ("depth-order", put("vector-0", 0.76, "answers", 1, "right")),
        ("prefix", put("base", 0.4, "prefix", 1, "right")),
        ("prefix", put("base", 0.9, "prefix", 1, "right")),
        ("first-token", put("vector-3", 0.4, "places", "first")),
        ("first-token-rest", put("vector-3", 0.4, "places", "all but first")),
        ("first-token-kl", put("vector-3", [1.0, 1.0], "kl")),
        ("norm-temperature", put("vector-3", 0.7, "clean_scale")),
        ("logit-lens", put("vector-3", 2, "lens", "THINK", "rank")),
        ("logit-lens-rival", put("vector-3", 20, "lens", "DIRECT", "rank")),
        ("lens-trap", put("vector-learned", lens(), "lens")),
        ("lens-trap-rival", put("vector-learned", lens(), "lens")),
        ("suppression", put("vector-0", 0.2, "lens", "second_dialect")),
        ("persistence-other", put("combine", 0.3, "persistence", 0, 3, "to_vector")),
        ("skip-attention", put("paths", 0.5, "routes", "skip attention")),
        ("penultimate-mlp", put("paths", 0.5, "routes", "skip MLP")),
        ("direct-route", put("paths", 0.5, "routes", "skip unembedding")),
        ("forced-route", put("paths", 0.5, "forced", 0)),
        ("separability", put("vector-learned", 0.7, "answers", 1, "right")),
        ("pre-flight", put("cosine-0.9", 4.0, "pre_flight", "bound")),
        ("transfer-family", put("family", 0.3, "of_the_parent")),
        ("transfer-seeds", put("transfer-from", 0.3, "layers", 3, "raw")),
        ("transfer-apart", put("transfer-apart", 0.7, "layers", 3, "raw")),
        ("transfer-mapped", put("transfer-apart", 0.3, "layers", 3, "mapped")),
        ("combine-halved", put("combine", [Combination(layers=[0, 1], right={1: 0.1, 0.5: 0.5})], "combined")),
        ("combine", put("combine", [Combination(layers=[0, 1], right={1: 0.9, 0.5: 0.5})], "combined")),
        ("adaptive", put("adaptive", 0.84, "constant", 1, "right")),
        ("adaptive-place", put("adaptive", 50.0, "scales", "digits")),
        ("prompt-bit-constant", put("flag-last", 0.7, "answers", 1, "right")),
        ("prompt-bit-gate", put("flag-gate", 0.7, "answers", 1, "right")),
        ("prompt-bit-full", put("flag-full", 0.7, "answers", 1, "right")),
        ("prompt-bit-mlp", put("flag-before", 0.4, "routes", "skip MLP")),
        ("features", put("features", 0.3, "difference", "trivial_difference")),
        ("difference-sae", put("features", 0.9, "difference", "auc")),
        ("random-vector", put("baselines", [0.3, 0.3], "random_vectors")),
        ("random-reward", put("baselines", 0.3, "random_reward", "right", 1)),
        ("same-vector", put("baselines", 0.9, "another_run", "cosine")),
        ("difference-of-means", put("baselines", 0.4, "difference_of_means", "right", 1)),
        ("logit-bias", put("baselines", 0.6, "logit_bias", "right", 1)),
    ],
)
def test_each_claim_turns_when_its_finding_does(id, change):
    before, after = (verdicts(results)[id] for results in (world(), change(world())))
    assert {before, after} == {"holds", "fails"}


def test_what_was_not_measured_is_open():
    assert {id for id, verdict in verdicts(Conditions()).items() if verdict != "open"} == {"persistence"}
    found = verdicts(Conditions({name: world()[name] for name in ("base", "full")}))
    assert {id for id, verdict in found.items() if verdict in ("holds", "fails")} == {"base", "base-chain", "full-rl"}


def test_a_difference_that_one_seed_makes_is_not_sure():
    results = put("baselines", 0.74, "logit_bias", "right", 1)(world())
    results["baselines"][0] = changed(ONE_SEED["baselines"], 1.0, "logit_bias", "right", 1)
    (claim,) = (one for one in judge_claims(STUDY.claims(), results) if one.id == "logit-bias")
    assert claim.verdict == "fails"
    assert claim.measured > 0


def test_seeds_without_another_run_are_not_asked_for_its_vector():
    results = world()
    results["baselines"] |= {seed: replace(ONE_SEED["baselines"], another_run=None) for seed in SEEDS[2:]}
    (claim,) = (one for one in judge_claims(STUDY.claims(), results) if one.id == "same-vector")
    assert claim.seeds == SEEDS[:2]


def test_every_result_is_the_same_when_read_back():
    for name, result in ONE_SEED.items():
        held = json.loads(json.dumps(as_json(result, name, type(result))))
        assert fit(type(result), held, name) == result


def test_every_job_gives_what_is_judged_under_its_condition():
    gives = {job.condition: job.gives for job in SteeringVectorsStudy(cosines=(0.9,), control_seeds=3).jobs()}
    assert {name: type(found) for name, found in ONE_SEED.items()}.items() <= gives.items()


def test_every_figure_is_drawn_and_those_without_results_are_left_out():
    drawn = draw(world(), STUDY)
    assert len(drawn) == len({picture.title for picture in drawn}) == 7
    assert {claim.figure for claim in STUDY.claims()} - {""} == {picture.title for picture in drawn}
    assert draw(Conditions(), STUDY) == []
