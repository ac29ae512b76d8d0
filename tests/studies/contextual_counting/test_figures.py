"""Laws of the counting study's figures: each is drawn from made-up results, and left out without them."""

import re
from dataclasses import replace

import pytest
import torch

from tests.studies.contextual_counting.findings import finding, region
from tests.studies.contextual_counting.planted import classes
from toylab.planted.handwritten import contextual_counter
from toylab.probes import watch
from toylab.runs.store import write_metrics
from toylab.runs.study import Job
from toylab.studies.contextual_counting.figures import COUNTING_FILM, counting_history, draw, recorded_string
from toylab.studies.contextual_counting.results import CountingExample
from toylab.studies.contextual_counting.study import ContextualCountingStudy
from toylab.tasks import ContextualCounting
from toylab.training.attention_history import AttentionHistory
from toylab.training.loop import Training
from toylab.verdicts.claim import Conditions


@pytest.mark.slow
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


def test_the_attention_history_has_the_attention_of_every_region_with_ones_on_its_own_ones(tmp_path):
    task = ContextualCounting(length=(14, 20), regions=(1, 3))
    model = contextual_counter(3, 21)
    folder = Job("none", 2).folder(tmp_path)
    folder.mkdir(parents=True)
    encoder, decoder = recorded_string(task, 2)
    film = AttentionHistory(folder / COUNTING_FILM, [encoder, decoder])
    film.add(model, 0)
    film.add(model, 5)
    write_metrics(
        folder / "metrics.jsonl", Training(history=[{"step": 0, "accuracy": 0.2}, {"step": 5, "accuracy": 1}])
    )
    page = counting_history(Conditions(none={2: finding(region())}), tmp_path)
    counts = [content.count("1") for content in re.findall(r"\[([01]*)\]", "".join(decoder.names[1:]))]
    assert decoder.queries == tuple(f"region {k + 1}, n = {n}" for k, n in enumerate(counts))
    assert page.curves.pop("accuracy") == [0.2, 1]
    with watch(model, "decoder.cross.pattern") as cache:
        model(decoder.tokens[None])
    expected = {}
    for k, n in enumerate(counts):
        own = [label == "counted ones" for label in classes(decoder.tokens.tolist(), k + 1)]
        mass = cache["decoder.cross.pattern"][0, 0, k][torch.tensor(own)].sum().item()
        if n:
            expected[f"attention on own ones, region {k + 1}, n = {n}"] = pytest.approx([mass] * 2, abs=n / 500)
    assert page.curves == expected
    assert [pattern.shape[2:] for pattern in page.patterns] == [(1, 15, 15), (1, 3, 15)]
    assert all(decoder.names[at] in "[]" and at < one for one, at in encoder.links["preceding brackets"])
    assert counting_history(Conditions(none={3: finding(region())}), tmp_path) is None
    assert counting_history(Conditions(), tmp_path) is None
