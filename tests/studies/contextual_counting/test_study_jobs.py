"""Laws of a job of the counting study: what it measures of a model that it finds, and how it has one trained."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.studies.contextual_counting.findings import finding
from tests.studies.contextual_counting.planted import held_out
from toylab.model.checkpoint import save_model
from toylab.model.controls import with_shuffled_weights
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig
from toylab.planted.handwritten import contextual_counter
from toylab.probes import ProbeScore, fit_saturation, permutation_sensitivity, watch
from toylab.runs.store import read_metrics, write_metrics
from toylab.studies.contextual_counting import measures, study
from toylab.studies.contextual_counting.data import count_accuracy, counting_model, for_model
from toylab.studies.contextual_counting.results import CountingResult
from toylab.studies.contextual_counting.study import ContextualCountingStudy
from toylab.tasks import ContextualCounting, decode, stream
from toylab.training.loop import TrainConfig, Training

TASK = ContextualCounting(length=(12, 24), regions=(1, 2))
STUDY = ContextualCountingStudy(
    task=TASK,
    model=EncoderDecoderConfig(encoder=replace(ENCODER, width=8, position_base=40.0)),
    train=TrainConfig(steps=10, rows=4),
    seeds=(0, 3),
    rows=100,
)
HISTORY = [{"step": step, "accuracy": accuracy} for step, accuracy in ((0, 0.1), (5, 0.91), (9, 0.95), (14, 0.85))]


@pytest.fixture(scope="module", autouse=True)
def probe():
    """What stands in for the linear probe, whose laws are its own: it tells what it was given."""

    def told(features, labels, groups, rng) -> ProbeScore:
        of_group = float((labels * (groups + 1)).sum())
        return ProbeScore(float(features.double().square().sum()), of_group, float(rng.random()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "linear_probe", told)
        yield


def measured(folder: Path, name: str, seed: int = 0) -> tuple[EncoderDecoder, CountingResult]:
    """The result of a job on a stored model of its condition with initial weights, sharpened."""
    (job,) = [job for job in STUDY.jobs() if (job.name, job.seed) == (name, seed)]
    model = counting_model(job.what.task, job.what.model, 1)
    with torch.no_grad():  # sharp attention, and answers that differ
        model.decoder.queries *= 20
        model.encoder.blocks[0].attn.query.weight *= 20
        tokens = for_model(TASK, model, held_out(TASK, seed, 100)).tokens
        model.decoder.head.bias -= model(tokens).mean(dim=(0, 1))
    save_model(folder / "model.safetensors", model)
    write_metrics(folder / "metrics.jsonl", Training(history=HISTORY))
    return model, STUDY.run_job(job, folder)


@pytest.fixture(scope="module")
def rotary(tmp_path_factory) -> tuple[EncoderDecoder, CountingResult]:
    return measured(tmp_path_factory.mktemp("rotary"), "rotary", 3)


def test_a_model_is_judged_on_the_longest_strings_with_most_regions(rotary):
    model, found = rotary
    strings = for_model(TASK, model, held_out(TASK, 3, 100))
    assert strings.tokens.shape == (100, 25)
    assert (found.steps, found.solved_at) == (14, 5)
    assert found.accuracy == count_accuracy(model, strings)
    assert found.floor == measures.constant_accuracy(strings)
    assert found.circuits == measures.find_circuits(model, strings)
    assert found.readout == measures.value_readout(model, strings, found.circuits)
    assert found.probe == measures.region_probes(model, strings, 3)
    assert found.rotary == measures.rotary_profile(model, strings, 1 / 24)
    assert found.rotary != measures.rotary_profile(model, strings, 1 / 12)
    assert found.scores is found.permutation_gap is None


def test_random_weights_and_uniform_attention_are_measured_as_the_trained_model(rotary):
    model, found = rotary
    shuffled, batch = with_shuffled_weights(model, 3), held_out(TASK, 3, 100)
    strings = for_model(TASK, model, batch)
    assert found.untrained.probe == measures.region_probes(shuffled, strings, 3) != found.probe
    assert found.untrained.rotary == measures.rotary_profile(shuffled, strings, 1 / 24)
    assert found.untrained.scores is None
    counts = strings.counts.flatten()
    assert found.untrained.uniform == fit_saturation(counts / 25, counts)
    assert found.untrained.uniform.k > 12
    assert found.untrained.uniform.r2 > 0.95


def test_each_change_appends_what_its_name_says(rotary):
    model, found = rotary
    batch = held_out(TASK, 3, 100)
    before = for_model(TASK, model, batch)
    assert set(found.shifts) == {"8 zeros", "16 zeros", "32 zeros", "a region"}
    assert len({one.after for shifts in found.shifts.values() for one in shifts}) > 4
    for name, shifts in found.shifts.items():
        size = None if name == "a region" else int(name.split()[0])
        changed = TASK.append_region(batch) if size is None else TASK.append_zeros(batch, size)
        assert shifts == measures.measure_shifts(model, before, for_model(TASK, model, changed)), name


def test_elsewhere_one_thing_differs_from_the_strings_on_which_a_model_is_judged(rotary):
    model, found = rotary
    expected = {
        "length 15": (TASK, 15, 2),
        "length 36": (TASK, 36, 2),
        "3 regions": (TASK, 24, 3),
        "1 regions": (TASK, 24, 1),
        "p = 0.3": (replace(TASK, p=0.3), 24, 2),
        "p = 0.7": (replace(TASK, p=0.7), 24, 2),
    }
    assert set(found.elsewhere) == set(expected)
    for name, (task, length, regions) in expected.items():
        strings = for_model(task, model, held_out(task, 3, 100, length=length, regions=regions))
        assert strings.tokens.shape[1] == length + 1
        assert found.elsewhere[name].accuracy == count_accuracy(model, strings), name
        assert found.elsewhere[name].floor == measures.constant_accuracy(strings), name


def test_the_example_is_the_shortest_string_whose_emptiest_region_is_fullest(rotary):
    model, found = rotary
    batch = held_out(TASK, 3, 64, length=12)
    fewest = [min(counts[:2]) for counts in batch.labels["count"].tolist()]
    row = fewest.index(max(fewest))
    strings = for_model(TASK, model, batch.rows(row, row + 1))
    with watch(model, "encoder.blocks.0.attn.pattern", "decoder.cross.pattern") as seen:
        guessed = model(strings.tokens).argmax(dim=-1)[0].tolist()
    example = found.example
    assert example.tokens == list(decode(TASK, strings.tokens[0].tolist()))
    assert (example.regions, example.counts) == (strings.regions[0].tolist(), strings.counts[0].tolist())
    assert example.guessed == guessed
    assert np.abs(example.encoder - seen["encoder.blocks.0.attn.pattern"][0, 0].detach().numpy()).max() <= 6e-4
    assert np.abs(example.decoder - seen["decoder.cross.pattern"][0, 0].detach().numpy()).max() <= 6e-4


def test_a_model_without_positions_has_scores_and_if_it_looks_both_ways_a_permutation_gap(tmp_path):
    model, found = measured(tmp_path, "none")
    assert found.scores == measures.encoder_scores(model)
    few = for_model(TASK, model, held_out(TASK, 0, 100).rows(0, 50)).tokens

    def gap(model: EncoderDecoder, tokens: torch.Tensor) -> float:
        return permutation_sensitivity(deepcopy(model).double(), tokens, stream(0, "permutation"), kept=0).largest

    assert found.permutation_gap == gap(model, few) > 1e-6
    assert found.rotary is None
    assert found.untrained.scores == measures.encoder_scores(with_shuffled_weights(model, 0)) != found.scores
    (tmp_path / "both").mkdir()
    model, found = measured(tmp_path / "both", "none-bidirectional")
    assert found.permutation_gap == gap(model, few) < 1e-9
    assert found.scores == measures.encoder_scores(model)


def test_strings_lack_the_begin_token_for_a_model_that_never_saw_one(tmp_path):
    model, found = measured(tmp_path, "plain-rotary-no-begin")
    task = replace(TASK, begin=False)
    strings = for_model(task, model, held_out(task, 0, 100))
    assert strings.tokens.shape == (100, 24)
    assert found.accuracy == count_accuracy(model, strings)
    assert found.floor == measures.constant_accuracy(strings)
    assert found.circuits == measures.find_circuits(model, strings)
    assert all("begin" not in one.blocked and one.shares["begin"] == 0 for one in found.circuits)
    longer = for_model(task, model, task.append_zeros(held_out(task, 0, 100), 16))
    assert found.shifts["16 zeros"] == measures.measure_shifts(model, strings, longer)
    assert found.elsewhere["length 36"].accuracy
    assert len(found.example.tokens) == 12


def test_learned_positions_are_asked_for_nothing_longer_than_they_know(tmp_path):
    _, found = measured(tmp_path, "learned")
    assert found.shifts == {}
    assert set(found.elsewhere) == {"length 15", "3 regions", "1 regions", "p = 0.3", "p = 0.7"}
    assert found.scores is found.rotary is None


def test_a_decoder_of_more_than_attention_has_no_readout():
    config = EncoderDecoderConfig(encoder=replace(ENCODER, width=8), residual=True)
    model = counting_model(TASK, config)
    found = study.measure_model(TASK, model, 0, 210, 7, None)
    assert found.readout is None
    assert found.probe == measures.region_probes(model, for_model(TASK, model, held_out(TASK, 0, 210).rows(0, 200)), 0)
    assert (found.steps, found.solved_at) == (7, None)


@pytest.mark.parametrize("size", [(12, 4), (4, 1)])
def test_strings_so_short_that_hardly_a_bit_is_left_are_examined_too(size):
    length, regions = size
    task = ContextualCounting(length=length, regions=regions)
    ContextualCountingStudy(task=task)  # which takes it
    config = EncoderDecoderConfig(encoder=replace(ENCODER, width=8))
    found = study.measure_model(task, counting_model(task, config), 0, 10, 1, None)
    assert (f"{regions + 1} regions" in found.elsewhere) == (2 * regions + 4 <= length)


# The hand-written counters -------------------------------------------------------------------------------------------


def test_counters_that_always_say_nothing_or_too_much_are_wrong_wherever_they_are_asked_otherwise(monkeypatch):
    always = {"begin": 0, "bracket": 14}

    def broken(regions: int, classes: int, bias: str) -> EncoderDecoder:
        model = contextual_counter(regions, classes, bias=bias)
        with torch.no_grad():
            model.decoder.head.bias[always[bias]] += 1e9
        return model

    monkeypatch.setattr(study, "contextual_counter", broken)
    task = ContextualCounting(length=14, regions=2)
    found = study.measure_handwritten(task, 20, 1)
    wide, errors, asked = replace(task, length=28), 0, 0
    for length in (16, 14, 28):
        for regions in (1, 2, 6 if length == 14 else 7):
            counts = held_out(wide, 1, 50, length=length, regions=regions).labels["count"][:, :regions]
            for said in always.values():
                errors, asked = errors + int((counts != said).sum()), asked + counts.size
    assert (found.errors, found.asked) == (errors, asked)


def test_the_hand_written_counters_make_no_error_and_are_named():
    twice = held_out(replace(TASK, length=48), 2, 50, length=48, regions=1)
    assert twice.labels["count"].max() > TASK.max_length  # a count that the task does not name
    found = study.measure_handwritten(TASK, 60, 2)
    assert found.errors == 0
    assert found.asked == 2 * 3 * 50 * (1 + 2 + 7)
    assert found.share_named_correctly == 1
    for bias, regions in found.named.items():
        model = contextual_counter(2, 25, bias=bias)
        own = measures.find_circuits(model, for_model(TASK, model, held_out(TASK, 2, 60)))
        assert [vars(region) for region in regions] == [
            {name: getattr(circuit, name) for name in ("circuit", "bias", "k", "r2", "blocked")} for circuit in own
        ]


@pytest.mark.parametrize("size", [(24, 8), (12, 1)])
def test_the_hand_written_counters_are_tried_where_seven_regions_or_all_of_the_task_leave_no_bits(size):
    length, regions = size
    task = ContextualCounting(length=length, regions=regions)
    assert study.measure_handwritten(task, 10, 0).errors == 0


# How a model is trained ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "no-auxiliary", "plain-none-no-begin"])
def test_an_arm_is_trained_by_its_settings(monkeypatch, tmp_path, name):
    given = {}

    def learn(task, model, train, seed, **more):
        given.update(more, task=task, model=model, train=train, seed=seed)
        return counting_model(task, model, 1), Training(history=HISTORY)

    monkeypatch.setattr(study, "learn_counting", learn)
    settings = replace(STUDY, growth=0.25, auxiliary=0.5, rows=800)
    (job,) = [job for job in settings.jobs() if (job.name, job.seed) == (name, 0)]
    asked = []

    def examine(*arguments):
        asked.extend(arguments)
        return finding()

    monkeypatch.setattr(study, "measure_model", examine)
    decided = settings.run_job(job, tmp_path)
    assert (decided.exact is not None) == (given.pop("record") is not None) == (name == "none")
    assert replace(decided, exact=None) == replace(finding(), exact=None)
    task, _, seed, rows, steps, solved_at = asked
    condition = settings.conditions()[name]
    shown = replace(TASK, begin=name != "plain-none-no-begin")
    assert given.pop("checkpoint") == tmp_path / "checkpoint.safetensors"
    assert given == {
        "task": condition.task, "model": condition.model, "train": condition.train, "seed": 0, "rows": 200,
        "auxiliary": 0.5 if name == "none" else 0.0, "growth": 0.25 if shown.begin else 0.0,
    }  # fmt: skip
    assert (task, seed, rows, steps, solved_at) == (shown, 0, 800, 14, 5)
    assert read_metrics(tmp_path / "metrics.jsonl") == HISTORY


def test_models_without_positions_which_run_in_linear_time_come_after_all_others():
    jobs = STUDY.jobs()
    fast = [job.what.model.encoder.positions == "none" for job in jobs[:-2]]
    assert fast == sorted(fast)
    assert set(fast) == {False, True}
    assert [(job.name, job.seed) for job in jobs[-2:]] == [("golden", 0), ("golden", 3)]
    assert sorted((job.name, job.seed) for job in jobs[:-2]) == sorted(
        (n, s) for n in STUDY.conditions() for s in (0, 3)
    )


def test_an_arm_with_another_encoder_differs_in_that_alone():
    conditions = ContextualCountingStudy(parts=("circuits", "plain", "ingredients")).conditions()

    def changed(name: str, **encoder):
        condition = conditions[name]
        return replace(condition, model=replace(condition.model, encoder=replace(condition.model.encoder, **encoder)))

    assert conditions["encoder-mlp"] == changed("none", hidden=128)
    assert conditions["large-embeddings"] == changed("none", embedding_std=1.0)
    assert conditions["no-auxiliary-rotary"] == replace(conditions["no-auxiliary"], model=conditions["rotary"].model)
    assert conditions["no-auxiliary-slow-rotary"] == changed("no-auxiliary-rotary", position_frequency=0.01)
    assert conditions["plain-encoder-mlp"] == changed("plain-none", hidden=128)
    assert ContextualCountingStudy(encoder_hidden=7).conditions()["encoder-mlp"].model.encoder.hidden == 7
