"""Laws of the counting study's figures: each is drawn from made-up results, and left out without them."""

from dataclasses import replace

from tests.studies.contextual_counting.findings import finding, region
from toylab.runs.store import write_metrics
from toylab.runs.study import Job
from toylab.studies.contextual_counting.figures import draw
from toylab.studies.contextual_counting.results import CountingExample
from toylab.studies.contextual_counting.study import ContextualCountingStudy
from toylab.training.loop import Training
from toylab.verdicts.claim import Conditions


def test_every_figure_of_solved_regions_is_drawn_and_those_without_results_are_left_out(tmp_path):
    example = CountingExample(
        tokens=["[", "1", "]"],
        regions=[1, 1, 1],
        counts=[1] * 4,
        guessed=[1] * 4,
        encoder=[[1.0, 0.0, 0.0]] * 3,
        decoder=[[0.0, 1.0, 0.0]] * 4,
    )
    held = dict.fromkeys((0, 1), replace(finding(*[region()] * 4), example=example))
    for job in (Job(name, seed) for name in ("none", "rotary") for seed in held):
        job.folder(tmp_path).mkdir(parents=True)
        history = [{"step": 0, "accuracy": 0.2}, {"step": 100, "accuracy": 0.97}]
        write_metrics(job.folder(tmp_path) / "metrics.jsonl", Training(history=history))
    drawn = draw(Conditions(none=held, rotary=held), tmp_path, ("none", "rotary"), ("none", "rotary"), 64)
    assert len(drawn) == len({picture.title for picture in drawn}) == 8
    assert draw(Conditions(), tmp_path, ("none", "rotary"), ("none", "rotary"), 64) == []


def test_models_that_train_without_a_begin_token_have_their_plateaus_in_the_figure_of_the_claim(tmp_path):
    (claim,) = (one for one in ContextualCountingStudy().claims() if one.id == "rotary-is-easier")
    models = Conditions({name: {0: finding(region())} for name in claim.conditions})
    for name in models:
        folder = Job(name, 0).folder(tmp_path)
        folder.mkdir(parents=True)
        write_metrics(folder / "metrics.jsonl", Training(history=[{"step": 0, "accuracy": 0.2}]))
    drawn = {one.title: one for one in draw(models, tmp_path, ("none", "rotary"), (), 64)}
    titles = ("plain set-up, no begin token", "plain set-up, rotary, no begin token")
    assert all(title in drawn[claim.figure].svg for title in titles)
