"""Real results, judged again: no number and no verdict of a study moves unnoticed."""

import json

import pytest

from tests.stored.keep import as_numbers, judged_again, kept_runs
from toylab.runs import registry
from toylab.verdicts.decision import FEWEST_SEEDS

RUNS = [json.loads(path.read_text()) for path in kept_runs()]


@pytest.mark.parametrize("held", RUNS, ids=[one["study"] for one in RUNS])
def test_every_number_and_verdict_of_kept_results_is_as_it_was(held):
    found = {claim.id: as_numbers(claim) for claim in judged_again(held)}
    moved = {id for id in {*held["judged"], *found} if held["judged"].get(id) != found.get(id)}
    assert not moved, "if this is meant: python -m tests.stored.keep"


def test_results_of_six_seeds_are_kept_of_every_study():
    assert [one["study"] for one in RUNS] == registry.study_names()
    for held in RUNS:
        assert len(held["settings"]["seeds"]) == FEWEST_SEEDS
        decided = [one for one in held["judged"].values() if one["verdict"] in ("supported", "refuted")]
        assert decided
