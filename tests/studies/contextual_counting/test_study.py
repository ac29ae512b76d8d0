"""Laws of the settings of the contextual-counting study: a condition changes what its name says."""

from dataclasses import replace

import pytest

from tests.studies.contextual_counting.findings import flat
from toylab.model.encoder_decoder import EncoderDecoderConfig
from toylab.studies.contextual_counting.claims import claims
from toylab.studies.contextual_counting.study import ContextualCountingStudy
from toylab.tasks import ContextualCounting

STUDY = ContextualCountingStudy(parts=("encodings", "circuits", "no-begin", "plain", "ingredients"))
CONDITIONS = STUDY.conditions()


def test_the_main_arms_differ_in_positions_alone():
    none, rotary = CONDITIONS["none"], CONDITIONS["rotary"]
    encoder = replace(rotary.model.encoder, positions="none")
    assert replace(rotary, model=replace(rotary.model, encoder=encoder)) == none
    assert (none.task, none.model, none.train) == (STUDY.task, STUDY.model, STUDY.train)


@pytest.mark.parametrize("name", STUDY.encodings)
def test_every_encoding_has_a_causal_and_a_bidirectional_arm_alike_but_for_that(name):
    causal, both = CONDITIONS[name], CONDITIONS[f"{name}-bidirectional"]
    assert causal.model.encoder.positions == both.model.encoder.positions == name
    assert causal.model.encoder.causal
    assert both.model == replace(causal.model, encoder=replace(causal.model.encoder, causal=False))
    assert (causal.task, causal.train, causal.auxiliary) == (both.task, both.train, both.auxiliary)
    assert (causal.model.encoder.alibi_slope == 0.01) == (name == "alibi")


@pytest.mark.parametrize("name", STUDY.encodings)
def test_the_plain_set_up_has_no_help_to_start(name):
    condition = CONDITIONS[f"plain-{name}"]
    assert (condition.model.encoder.positions, condition.model.encoder.causal) == (name, True)
    assert (condition.task.length, condition.task.regions, condition.auxiliary) == (64, 4, 0)
    model = condition.model
    assert (model.logit_scale, model.head, model.encoder.embedding_std, model.query_std) == (1, "default", 1, 1)


@pytest.mark.parametrize("encoding", ["none", "rotary"])
def test_strings_without_a_begin_token_are_all_that_differs_from_the_plain_set_up(encoding):
    plain, condition = CONDITIONS[f"plain-{encoding}"], CONDITIONS[f"plain-{encoding}-no-begin"]
    assert not condition.task.begin
    assert condition == replace(plain, task=replace(plain.task, begin=False))


def test_circuits_are_compared_of_all_causal_encoders():
    others = {name for name in CONDITIONS if name.endswith("-bidirectional")}
    assert len(others) == len(STUDY.encodings)
    assert STUDY.causal == tuple(name for name in CONDITIONS if name not in others)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("one-length", {"task": ContextualCounting(length=64, regions=(1, 4))}),
        ("one-number", {"task": ContextualCounting(length=(24, 64), regions=4)}),
        ("no-logit-scale", {"model": EncoderDecoderConfig(logit_scale=1.0)}),
        ("default-head", {"model": EncoderDecoderConfig(head="default")}),
        ("large-queries", {"model": EncoderDecoderConfig(query_std=1.0)}),
        ("no-auxiliary", {"auxiliary": 0.0}),
        (
            "fixed",
            {"task": ContextualCounting(length=64, regions=4), "auxiliary": 0.0},
        ),
    ],
)
def test_an_ablation_leaves_one_ingredient_out(name, change):
    assert CONDITIONS[name] == replace(CONDITIONS["none"], **change)


def test_parts_that_are_not_asked_for_are_not_trained():
    assert set(ContextualCountingStudy(parts=()).conditions()) == {"none", "rotary"}
    plain = {name for name in ContextualCountingStudy.default().conditions() if name.startswith("plain")}
    assert plain == {"plain-none-no-begin", "plain-rotary-no-begin"}
    assert not [name for name in ContextualCountingStudy.quick().conditions() if name.startswith("plain")]
    paper = ContextualCountingStudy.paper()
    assert len(paper.seeds) >= 20
    assert {*plain, *(f"plain-{name}" for name in paper.encodings)} <= set(paper.conditions())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, r"seeds=\(\): give at least one"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\): .*all different"),
        ({"auxiliary": 1.5}, "auxiliary=1.5: must be at least 0 and at most 1; it is a share"),
        ({"rows": 10}, "rows=10: must be at least 100"),
        (
            {"task": ContextualCounting(length=(8, 10), regions=(1, 4))},
            "task.length=.*: a constant count is correct in",
        ),
        ({"task": ContextualCounting(begin=False)}, "task.begin=False: .*leave it True"),
        ({"task": ContextualCounting(answer="running")}, "task.answer=running: "),
        ({"encodings": ("none",)}, r"encodings=\('none',\): must include none and rotary"),
        ({"encoder_hidden": 0}, "encoder_hidden=0: must be at least 1"),
        ({"model": EncoderDecoderConfig(heads=2)}, "model: .*one decoder head"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_a_remedy(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ContextualCountingStudy(**change)


def test_claims_wait_for_what_is_not_trained_and_for_lengths_at_which_they_tell():
    def undecidable(longest=64, parts=STUDY.parts, encodings=STUDY.encodings) -> dict[str, str]:
        declared = claims(encodings, STUDY.causal, longest, parts, 32)
        return {one.id: one.undecidable for one in declared if one.undecidable}

    assert set(undecidable()) == {"none-is-best"}
    appended = {"bias-decides", "constant-bias-keeps", "zeros-bias-falls"}
    assert set(undecidable(longest=256)) == appended
    assert "ceiling" in undecidable(longest=255)["none-is-best"]
    assert appended <= set(undecidable(longest=65))
    few = undecidable(parts=("encodings", "circuits"))
    assert few["failure-rate"].endswith("--parts encodings circuits no-begin plain, or --preset paper")
    assert few["plain-encoder-mlp"] == few["failure-rate"]
    assert few["rotary-is-easier"].endswith("not part of this run; add it with --parts encodings circuits no-begin")
    assert few["ingredients"].endswith("--parts encodings circuits no-begin ingredients")
    two = undecidable(encodings=("none", "rotary"))
    assert two["bidirectional-alibi"] == "not part of this run; add it with --encodings none rotary alibi"
    assert two["bidirectional-learned"] == "not part of this run; add it with --encodings none rotary learned"
    assert "bidirectional-rotary" not in two
    assert "bidirectional-learned" not in undecidable(longest=32)
    wide = "learned positions of width 32 cover strings of 32 tokens"
    assert undecidable(longest=31)["bidirectional-learned"] == wide


def test_accuracy_below_the_best_constant_guess_is_as_far_from_it_as_above():
    held = {one.id: one for one in STUDY.claims()}
    for id in ("bidirectional-chance", "bidirectional-rotary", "bidirectional-alibi"):
        assert held[id].quantity(flat(0.03)) == pytest.approx(0.2)
        assert held[id].control.quantity(flat(0.43)) == pytest.approx(0.2)


def test_how_heavy_a_bias_may_be_follows_from_the_length():
    for longest, told in ((64, "<= 32"), (30, "<= 15")):
        (claim,) = (
            one
            for one in claims(STUDY.encodings, STUDY.causal, longest, STUDY.parts, 32)
            if one.id == "count-in-decoder"
        )
        assert str(claim.criterion) == told
