"""Laws of the contextual-counting study: an arm changes what its name says, and made-up findings get their verdicts."""

import json
from dataclasses import replace

import pytest

from toylab.model.encoder_decoder import EncoderDecoderConfig
from toylab.probes import Readout
from toylab.settings import as_json, fit
from toylab.studies.contextual_counting.claims import claims
from toylab.studies.contextual_counting.results import (
    CLASSES,
    CountingExample,
    CountingResult,
    Elsewhere,
    GoldenResult,
    NamedRegion,
    RegionCircuit,
    RegionProbe,
    RegionProbes,
    RegionReadout,
    RotaryProfile,
    Shift,
    StoppedPlanes,
)
from toylab.studies.contextual_counting.study import ContextualCountingStudy
from toylab.tasks import ContextualCounting
from toylab.verdicts.claim import Conditions, judge_claims

STUDY = ContextualCountingStudy(parts=("encodings", "circuits", "plain", "ingredients"))
ARMS = STUDY.arms()


def test_the_main_arms_differ_in_positions_alone():
    none, rotary = ARMS["none"], ARMS["rotary"]
    encoder = replace(rotary.model.encoder, positions="none")
    assert replace(rotary, model=replace(rotary.model, encoder=encoder)) == none
    assert (none.task, none.model, none.train, none.seeds) == (STUDY.task, STUDY.model, STUDY.train, STUDY.seeds)


@pytest.mark.parametrize("name", STUDY.encodings)
def test_every_encoding_has_a_causal_and_a_bidirectional_arm_alike_but_for_that(name):
    causal, both = ARMS[name], ARMS[f"{name}-bidirectional"]
    assert causal.model.encoder.positions == both.model.encoder.positions == name
    assert causal.model.encoder.causal
    assert both.model == replace(causal.model, encoder=replace(causal.model.encoder, causal=False))
    assert (causal.task, causal.train, causal.auxiliary) == (both.task, both.train, both.auxiliary)
    assert (causal.model.encoder.alibi_slope == 0.01) == (name == "alibi")


@pytest.mark.parametrize("name", STUDY.encodings)
def test_the_plain_set_up_has_no_help_to_start(name):
    arm = ARMS[f"plain-{name}"]
    assert (arm.model.encoder.positions, arm.model.encoder.causal) == (name, True)
    assert (arm.task.length, arm.task.regions, arm.auxiliary) == (64, 4, 0)
    model = arm.model
    assert (model.logit_scale, model.head, model.encoder.embedding_std, model.query_std) == (1, "default", 1, 1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("one-length", {"task": ContextualCounting(length=64, regions=(1, 4))}),
        ("one-number", {"task": ContextualCounting(length=(24, 64), regions=4)}),
        ("no-logit-scale", {"model": EncoderDecoderConfig(logit_scale=1.0)}),
        ("default-head", {"model": EncoderDecoderConfig(head="default")}),
        ("large-queries", {"model": EncoderDecoderConfig(query_std=1.0)}),
        ("no-auxiliary", {"auxiliary": 0.0}),
        ("fixed", {"task": ContextualCounting(length=64, regions=4), "auxiliary": 0.0}),
    ],
)
def test_an_ablation_leaves_one_ingredient_out(name, change):
    assert ARMS[name] == replace(ARMS["none"], seeds=STUDY.seeds[: STUDY.control_seeds], **change)


def test_parts_that_are_not_asked_for_are_not_trained():
    assert set(ContextualCountingStudy(parts=()).arms()) == {"none", "rotary"}
    assert not {f"plain-{name}" for name in STUDY.encodings} & set(ContextualCountingStudy.default().arms())
    paper = ContextualCountingStudy.paper()
    assert all(len(arm.seeds) >= 20 for arm in paper.arms().values())
    assert {f"plain-{name}" for name in paper.encodings} <= set(paper.arms())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, r"seeds=\(\): give at least one"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\): .*all different"),
        ({"control_seeds": 0}, "control_seeds=0: must be at least 1"),
        ({"auxiliary": 1.5}, "auxiliary=1.5: must be at least 0 and at most 1; it is a share"),
        ({"rows": 10}, "rows=10: must be at least 100"),
        (
            {"task": ContextualCounting(length=(8, 10), regions=(1, 4))},
            "task.length=.*: one constant count is right in",
        ),
        ({"task": ContextualCounting(begin=False)}, "task.begin=False: .*leave it on"),
        ({"task": ContextualCounting(answer="running")}, "task.answer=running: .*counts alone"),
        ({"encodings": ("none",)}, r"encodings=\('none',\): must have none and rotary"),
        ({"encoder_hidden": 0}, "encoder_hidden=0: must be at least 1"),
        ({"model": EncoderDecoderConfig(heads=2)}, "model: .*one decoder head"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_a_remedy(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ContextualCountingStudy(**change)


# Verdicts on findings that are made up ------------------------------------------------------------------------------

FLOOR = 0.23


def region(accuracy=0.97, circuit="counter", bias="own [", share=0.9, r2=0.99, without=FLOOR, k=4.0, **blocked):
    shares = dict.fromkeys(CLASSES[1:], (1 - share) / 7) | ({bias: share} if bias in CLASSES else {})
    lost = {"counted ones": without, "own brackets": 0.1, "outside ones": 0.9, "all ones": without}
    return RegionCircuit(
        accuracy=accuracy,
        circuit=circuit,
        bias=bias,
        share=share,
        shares=shares,
        k=k,
        r2=r2,
        blocked=lost | ({} if bias == "mixed" else {"the bias": 0.1}) | blocked,
        curve={1: 0.2, 4: 0.5},
    )


PROBE = RegionProbe(accuracy=0.99, majority=0.57, shuffled=0.57, two_components=0.99)
READOUT = RegionReadout(two_values=Readout(0.01, 0.95), all_classes=Readout(0.01, 0.95))
ROTARY = RotaryProfile(
    planes=[0.0, 1.0],
    frequencies=[1.0, 1e-3],
    stopped=StoppedPlanes(fast=[0.97] * 4, slow=[0.3] * 4, all=[0.95] * 4),
)
EXAMPLE = CountingExample(
    tokens=["BoS", "[", "1", "]"],
    regions=[0, 1, 1, 1],
    counts=[1],
    guessed=[1],
    encoder=[[1.0, 0.0, 0.0, 0.0]] * 4,
    decoder=[[0.5, 0.0, 0.5, 0.0]],
)


def finding(*regions, zeros=(0.97, 1.0, 1.0), added=(0.97, 1.0, 1.0), **more) -> CountingResult:
    """What a job measures, with the given regions; `zeros` and `added` are accuracy, slope after, slope predicted."""
    regions = regions or tuple(region() for _ in range(4))
    shifts = {
        name: [Shift(accuracy=right, before=1.0, after=after, predicted=told, by_place=told) for _ in regions]
        for name, (right, after, told) in {"16 zeros": zeros, "a region": added}.items()
    }
    complete = CountingResult(
        steps=2000,
        solved_at=900,
        accuracy=[one.accuracy for one in regions],
        floor=FLOOR,
        circuits=list(regions),
        probe=RegionProbes(attention_output=PROBE, decoder_input=PROBE),
        example=EXAMPLE,
        shifts=shifts,
        elsewhere={"length 40": Elsewhere(accuracy=[0.9] * len(regions), floor=0.34)},
        readout=[READOUT] * len(regions),
        scores=[[0.0, 0.0, 5.0, 5.0, 4.0]] * 5,
        permutation_gap=1e-15,
        rotary=ROTARY,
    )
    return replace(complete, **more)


def flat(accuracy: float, **more) -> CountingResult:
    return finding(*(region(accuracy, "unsolved") for _ in range(4)), **more)


def seeds(*findings) -> dict:
    return dict(enumerate(findings))


def golden(errors=0, bias="begin") -> GoldenResult:
    named = {
        kind: [NamedRegion(circuit="counter", bias=name, k=10.0, r2=1.0, blocked={})] * 4
        for kind, name in {"begin": bias, "bracket": "own ["}.items()
    }
    return GoldenResult(errors=errors, asked=100, named=named)


def judged(times=6, longest=64, **arms: dict) -> dict:
    """The judgements of findings that so many seeds each gave."""
    found = Conditions(
        {
            name.replace("_", "-"): {seed + 100 * n: one for n in range(times) for seed, one in results.items()}
            for name, results in arms.items()
        }
    )
    declared = claims(("none", "rotary"), STUDY.causal, longest, STUDY.parts)
    return {claim.id: claim for claim in judge_claims(declared, found)}


def verdicts(times=6, longest=64, **arms: dict) -> dict[str, str]:
    return {id: claim.verdict for id, claim in judged(times, longest, **arms).items()}


good, bad = finding(), flat(0.5)
STUCK = StoppedPlanes(fast=[0.4], slow=[0.4], all=[0.4])


WITHDRAWN = {"region-probe": "withdrawn", "count-curve": "withdrawn"}


def test_nothing_measured_leaves_every_claim_open():
    found = verdicts()
    assert {id: verdict for id, verdict in found.items() if verdict != "open"} == WITHDRAWN


def test_one_seed_decides_nothing():
    found = verdicts(1, golden=seeds(golden()), none=seeds(good), rotary=seeds(good), none_bidirectional=seeds(bad))
    assert {id: verdict for id, verdict in found.items() if verdict != "open"} == WITHDRAWN


def test_sixteen_zeros_say_little_of_strings_far_longer():
    arms = {"none": seeds(good), "fixed": seeds(finding(region(bias="zeros"), zeros=(0.4, 0.7, 0.7)))}
    for longest, verdict in ((64, "holds"), (512, "open")):
        found = verdicts(longest=longest, **arms)
        assert found["constant-bias-keeps"] == found["zeros-bias-falls"] == verdict


def test_how_heavy_a_bias_may_be_follows_from_the_length():
    assert verdicts(longest=64, none=seeds(finding(region(k=20.0))))["count-bias-weight"] == "holds"
    assert verdicts(longest=32, none=seeds(finding(region(k=20.0))))["count-bias-weight"] == "fails"


@pytest.mark.parametrize(
    ("claim", "holds", "fails"),
    [
        ("solved", {"none": seeds(*[good] * 9, bad)}, {"none": seeds(*[good] * 8, bad, bad)}),
        ("solved-rotary", {"rotary": seeds(*[good] * 9, bad)}, {"rotary": seeds(*[good] * 8, bad, bad)}),
        ("golden", {"golden": seeds(golden())}, {"golden": seeds(golden(errors=1))}),
        ("golden-named", {"golden": seeds(golden())}, {"golden": seeds(golden(bias="zeros"))}),
        (
            "bidirectional-chance",
            {"none_bidirectional": seeds(flat(0.24))},
            {"none_bidirectional": seeds(flat(0.26))},
        ),
        (
            "permutation-invariant",
            {"none_bidirectional": seeds(flat(0.23))},
            {"none_bidirectional": seeds(flat(0.23, permutation_gap=1e-6))},
        ),
        ("failure-rate", {"plain_none": seeds(good, bad)}, {"plain_none": seeds(good, good, bad)}),
        (
            "rotary-is-easier",
            {"plain_none": seeds(bad, bad), "plain_rotary": seeds(good, good)},
            {"plain_none": seeds(bad, good), "plain_rotary": seeds(good, bad)},
        ),
        (
            "count-in-decoder",
            {"none": seeds(good)},
            {"none": seeds(finding(region(), region(without=0.6), region(), region()))},
        ),
        ("count-bias-weight", {"none": seeds(good)}, {"none": seeds(finding(region(), region(k=57.0)))}),
        (
            "bias-token",
            {"none": seeds(good)},
            {"none": seeds(finding(region(), region(bias="mixed", share=0.5)))},
        ),
        ("bias-token", {"none": seeds(good)}, {"none": seeds(finding(*[region(**{"the bias": 0.6})] * 4))}),
        (
            "ood-law",
            {"none": seeds(finding(zeros=(0.3, 0.7, 0.75)))},
            {"none": seeds(finding(zeros=(0.3, 0.7, 0.95)))},
        ),
        (
            "ood-law-by-place",
            {"none": seeds(finding(zeros=(0.3, 0.7, 0.75)))},
            {"none": seeds(finding(zeros=(0.3, 0.7, 0.95)))},
        ),
        ("constant-bias-keeps", {"none": seeds(good)}, {"none": seeds(finding(zeros=(0.5, 0.7, 0.75)))}),
        (
            "zeros-bias-falls",
            {"fixed": seeds(finding(region(bias="zeros"), zeros=(0.4, 0.7, 0.7)))},
            {"fixed": seeds(finding(region(bias="zeros"), zeros=(0.6, 0.9, 0.7)))},
        ),
        ("encoder-mlp", {"encoder_mlp": seeds(finding(*[region(circuit="copy")] * 4))}, {"encoder_mlp": seeds(good)}),
        (
            "rotary-in-disguise",
            {"rotary": seeds(good)},
            {"rotary": seeds(finding(rotary=replace(ROTARY, stopped=STUCK)))},
        ),
        ("cure", {"none": seeds(good)}, {"none": seeds(finding(region(), region(bias="zeros")))}),
        ("cure-begin", {"none": seeds(finding(region(bias="begin")))}, {"none": seeds(good)}),
        ("emerges", {"no_auxiliary": seeds(*[good] * 4, bad)}, {"no_auxiliary": seeds(*[good] * 3, bad)}),
        (
            "reads-brackets",
            {"none": seeds(good)},
            {"none": seeds(finding(scores=[[0.0, 0.0, 0.0, 0.0, 0.0]] * 5))},
        ),
    ],
)  # fmt: skip
def test_a_finding_passes_its_bar_or_misses_it(claim, holds, fails):
    assert verdicts(**holds)[claim] == "holds"
    assert verdicts(**fails)[claim] == "fails"


def four(none, rotary, none_bidirectional, rotary_bidirectional) -> dict[str, dict]:
    given = {
        "none": none,
        "rotary": rotary,
        "none_bidirectional": none_bidirectional,
        "rotary_bidirectional": rotary_bidirectional,
    }
    return {name: seeds(*map(flat, values)) for name, values in given.items()}


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (four([0.95, 0.96], [0.9, 0.9], [0.23, 0.23], [0.4, 0.4]), ("holds", "holds", "holds")),
        (four([0.95, 0.96], [0.9, 0.9], [0.23, 0.23], [0.75, 0.75]), ("fails", "holds", "holds")),
        (four([0.95, 0.96], [0.6, 0.6], [0.23, 0.23], [0.7, 0.7]), ("fails", "fails", "holds")),
        (four([0.95, 0.88], [0.9, 0.9], [0.23, 0.23], [0.4, 0.4]), ("holds", "holds", "fails")),
        (four([0.85, 0.84], [0.9, 0.9], [0.23, 0.23], [0.4, 0.4]), ("holds", "holds", "fails")),
    ],
)
def test_encodings_are_compared_seed_by_seed(arms, expected):
    found = verdicts(**arms)
    assert (found["causal-helps"], found["causal-over-all"], found["none-is-best"]) == expected


def test_ingredients_are_judged_only_if_all_were_left_out_once():
    left = (
        "one_length",
        "one_number",
        "no_logit_scale",
        "default_head",
        "large_embeddings",
        "large_queries",
        "no_auxiliary",
    )
    some = {name: seeds(flat(0.5)) for name in left[1:]}
    assert verdicts(none=seeds(good), **some)["ingredients"] == "open"
    assert verdicts(none=seeds(good), **some, one_length=seeds(flat(0.94)))["ingredients"] == "holds"
    assert verdicts(none=seeds(good), **some, one_length=seeds(flat(0.96)))["ingredients"] == "fails"


def test_conditions_that_lack_a_seed_are_left_out_of_what_is_pooled():
    one, other = (
        finding(region(bias="zeros"), zeros=(0.4, 0.7, 0.7)),
        finding(region(bias="zeros"), zeros=(0.2, 0.7, 0.7)),
    )
    found = judged(1, none={0: one, 1: one}, fixed={1: other, 2: other})["zeros-bias-falls"]
    assert found.details["by seed"] == {"0": 0.4, "1": 0.3, "2": 0.2}
    best = judged(1, none={0: good}, rotary={0: flat(0.5)}, fixed={0: good})["none-is-best"]
    assert best.measured == pytest.approx(0.47)


def test_a_claim_of_what_was_not_trained_says_which_part_to_add():
    declared = {claim.id: claim for claim in ContextualCountingStudy.default().claims()}
    assert "--preset paper" in declared["failure-rate"].undecidable
    assert declared["ingredients"].undecidable.endswith("--parts encodings circuits ingredients")
    assert not any(claim.undecidable for claim in STUDY.claims())


def test_the_largest_change_of_a_logit_is_kept_beside_the_verdict():
    found = judged(none_bidirectional=seeds(flat(0.23)))["permutation-invariant"]
    assert set(found.details["change"].values()) == {1e-15}


def test_results_survive_their_json_form():
    for result in (good, flat(0.5, readout=None, scores=None, permutation_gap=None, rotary=None), golden()):
        assert fit(type(result), json.loads(json.dumps(as_json(result, "result"))), "result") == result
