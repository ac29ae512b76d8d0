"""Laws of the claims on steering vectors beside their numbers: what is not decided, where each stands, figures."""

import json
from dataclasses import replace

import pytest

from tests.studies.made_up import judged
from tests.studies.steering_vectors.test_claims import STUDY, WORLD
from toylab.runs.store import write_metrics
from toylab.runs.study import Job
from toylab.settings import as_json, convert_value
from toylab.studies.steering_vectors.figures import draw
from toylab.training.loop import Training
from toylab.verdicts.claim import Conditions


def test_nothing_measured_gives_no_verdict():
    assert {one.verdict for one in judged(STUDY.claims(), Conditions()).values()} == {"not run"}


def test_a_claim_on_a_part_that_was_not_run_says_how_to_run_it():
    assert not [one.id for one in STUDY.claims() if one.undecidable]
    short = {one.id: one.undecidable for one in replace(STUDY, parts=("combine",)).claims() if one.undecidable}
    assert short["fraction-match"].endswith("--parts converged")


def test_the_lens_is_read_on_vectors_that_steer_a_learned_unembedding():
    weak = {
        seed: replace(one, answers=one.answers | {0: replace(one.answers[0], accuracy=0.89)})
        for seed, one in WORLD["vector-learned"].items()
    }
    found = judged(STUDY.claims(), Conditions(WORLD | {"vector-learned": weak}))
    assert {found[id].verdict for id in ("lens-trap", "lens-trap-rival")} == {"not run"}


def test_separability_is_not_measured_where_no_two_rows_are_close():
    def apart(name):
        return {seed: replace(one, pre_flight=replace(one.pre_flight, cosine=0.5)) for seed, one in WORLD[name].items()}

    near = {"base", "base-learned", "cosine-0.8", "cosine-0.9", "cosine-0.95"}
    found = judged(STUDY.claims(), Conditions(WORLD | {name: apart(name) for name in near}))["separability"]
    assert (found.verdict, found.measured) == ("not run", None)
    alone = judged(replace(STUDY, parts=("combine",)).claims(), WORLD)
    assert alone["pre-flight"].measured is None


def test_our_own_questions_and_checks_stand_apart_from_the_claims_of_the_paper():
    of = {kind: {one.id for one in STUDY.claims() if one.kind == kind} for kind in ("paper", "set-up")}
    assert of["set-up"] == {"base", "base-chain"}
    assert of["paper"] == {
        "fraction-match", "fraction-large", "single-layer", "depth-order", "depth-joint", "prefix", "first-token",
        "first-token-rest", "first-token-kl", "logit-lens", "logit-lens-rival", "suppression", "persistence",
        "persistence-other", "skip-attention", "penultimate-mlp", "transfer-family", "combine", "adaptive-place",
        "features", "difference-sae", "attention-unchanged", "process-words", "structure-symbols",
        "suppression-middle", "adaptive-content",
    }  # fmt: skip


def test_sections_of_the_paper_follow_its_order():
    places = {one.id: one.place for one in STUDY.claims()}
    sections = {"persistence": 5, "first-token": 6, "skip-attention": 7, "features": 8, "transfer-family": 9}
    assert {id: places[id].split()[1].strip(",") for id in sections} == {id: str(n) for id, n in sections.items()}
    assert places["adaptive-place"] == "section 10"


# Results -------------------------------------------------------------------------------------------------------------


def test_every_result_is_the_same_when_read_back():
    for name, found in WORLD.items():
        held = json.loads(json.dumps(as_json(found[2], name, type(found[2]))))
        assert convert_value(type(found[2]), held, name) == found[2]


@pytest.mark.slow
def test_every_figure_is_drawn_and_those_without_results_are_left_out(tmp_path):
    for name in ("full-converged", "joint-converged", STUDY.vectors[0], STUDY.vectors[-1]):
        for seed in WORLD[name]:
            Job(name, seed).folder(tmp_path).mkdir(parents=True)
            write_metrics(
                Job(name, seed).folder(tmp_path) / "metrics.jsonl", Training(history=[{"step": 0, "reward": 0.2}])
            )
    drawn = draw(WORLD, STUDY, tmp_path)
    assert len(drawn) == len({picture.title for picture in drawn}) == 8
    claimed = {claim.figure for claim in STUDY.claims()} - {""}
    assert claimed | {"Where the number of steps decides"} == {picture.title for picture in drawn}
    assert draw(Conditions(), STUDY, tmp_path) == []
