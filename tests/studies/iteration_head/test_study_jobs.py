"""Laws of a job of the iteration-head study: what it measures of a model that was written by hand, without training."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.studies.iteration_head.planted import TASK, held_out, noisy
from toylab.model.checkpoint import save_model
from toylab.model.config import ModelConfig
from toylab.model.controls import with_shuffled_weights
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import iteration_head
from toylab.runs.store import read_metrics, write_metrics
from toylab.runs.study import Job
from toylab.studies.iteration_head import measures, study
from toylab.studies.iteration_head.measures import IterationResult, PairsResult
from toylab.studies.iteration_head.study import IterationHeadStudy, lengths_of
from toylab.tasks import IGNORE, Copy, ModularSum, Parity, Polynomial, WordProblem, decode, stream
from toylab.training import evaluate
from toylab.training.batches import ScoredBatch, epoch_batches, pack, pad, training_batches
from toylab.training.loop import TrainConfig, Training

STUDY = IterationHeadStudy(
    exact_inputs=100,
    task=TASK,
    model=ModelConfig(heads=1, width=8, hidden=8),
    transfer=TrainConfig(steps=2, rows=2, warmup=0, cooldown=0, evaluate_every=1, learning_rate=1e-3),
    seeds=(0, 1),
    rows=8,
)
HISTORY = [
    {"step": 0, "accuracy": 0.0, "end_of_input": 0.1, "carry": 0.1},
    {"step": 10, "accuracy": 0.4, "end_of_input": 0.4, "carry": 0.45},
    {"step": 20, "accuracy": 0.995, "end_of_input": 0.3, "carry": 0.5},
    {"step": 30, "accuracy": 0.98, "end_of_input": 0.8, "carry": 0.9},
]


def measured(folder: Path, name: str, model: Transformer, seed: int = 0) -> IterationResult:
    """What the job of this name finds in a model that it finds trained."""
    save_model(folder / "model.safetensors", model)
    write_metrics(folder / "metrics.jsonl", Training(history=HISTORY))
    (job,) = [job for job in STUDY.jobs() if (job.name, job.seed) == (name, seed)]
    return STUDY.run_job(job, folder)


@pytest.fixture(scope="module")
def blurred() -> Transformer:
    return noisy(0, 0.05).float()


@pytest.fixture(scope="module")
def main(blurred, tmp_path_factory) -> IterationResult:
    return measured(tmp_path_factory.mktemp("main"), "main", blurred)


def test_a_circuit_written_by_hand_passes_every_test_of_a_main_model(tmp_path):
    found = measured(tmp_path, "main", iteration_head(TASK), seed=1)
    assert found.accuracy == {4: 1.0, 5: 1.0, 6: 1.0}
    assert (found.head.layer, found.head.head, found.head.found) == (1, 0, True)
    assert found.tests.unedited.sequence == found.tests.ideal_pattern.sequence == found.steered == 1
    assert found.tests.zero_ablated.sequence == 0
    assert found.invariance == pytest.approx(1)
    assert found.transfer.mass_by_symbol == {0: pytest.approx(1), 1: pytest.approx(1)}


def test_steps_are_read_from_the_history(main):
    assert main.steps == 30
    assert main.solved_at == 20
    # Half of .8, of .9 and of .98.
    assert vars(main.emergence) == {"end_of_input": 10, "carry": 10, "accuracy": 20}


def test_a_main_model_is_measured_on_all_held_out_lengths(main, blurred):
    test = held_out(TASK, range(4, 7), 8)
    assert main.accuracy == evaluate.free_running_accuracy(blurred, TASK, test)
    assert 0 < main.mean_accuracy < 1
    assert main.head == evaluate.search_iteration_head(blurred, test)
    assert main.tests == measures.causal_tests(blurred, test, main.head)
    assert main.steered == measures.steered_share(blurred, TASK, test, main.head) < 1


def test_invariance_is_that_of_the_head_on_the_longest_inputs(main, blurred):
    batch = held_out(TASK, [6], 8)[6]
    pattern = evaluate.attention_patterns(blurred, batch)[1][:, 0]
    spread = [np.std([pattern[row, 6 + t, t].item() for row in range(len(batch))]) for t in range(1, 7)]
    assert main.invariance == pytest.approx(1 - np.mean(spread), abs=1e-6)
    assert main.invariance < 0.999


def test_random_weights_are_measured_as_the_trained_ones(main, blurred):
    test, shuffled = held_out(TASK, range(4, 7), 8), with_shuffled_weights(blurred, 0)
    head = evaluate.search_iteration_head(shuffled, test)
    assert main.untrained.head == head
    assert main.untrained.steered == measures.steered_share(shuffled, TASK, test, head)
    assert head.carry < 0.5
    assert main.untrained.invariance == 0  # since it is not peaked


def test_the_example_is_a_held_out_row_with_its_links_and_patterns(main, blurred):
    batch = held_out(TASK, [6], 8)[6]
    assert main.example.tokens == list(decode(TASK, batch.tokens[0].tolist()))
    assert main.example.links["carry"] == [[6 + t, t] for t in range(1, 7)]
    assert main.example.links["stop"] == [[13, 7]]
    for layer, pattern in enumerate(evaluate.attention_patterns(blurred, batch)):
        assert np.abs(np.array(main.example.patterns[layer]) - pattern[0].numpy()).max() <= 0.0005 + 1e-6


def test_the_head_meets_parity_before_it_is_fine_tuned(main, blurred):
    longest = held_out(Parity(lengths=TASK.lengths, alphabet=5), [6], 8)[6]
    assert main.transfer.mass_by_symbol == measures.mass_by_symbol(blurred, longest, main.head)
    assert main.transfer.solved_at is None


def test_a_model_of_one_length_is_searched_on_all_lengths_and_fine_tuned(tmp_path, blurred):
    found = measured(tmp_path, "one-length", blurred)
    assert set(found.accuracy) == {6}
    assert found.head == evaluate.search_iteration_head(blurred, held_out(TASK, range(4, 7), 8))
    assert found.transfer is not None
    assert found.tests is not None  # a sham is examined as the main model is
    assert found.emergence is None


@pytest.mark.parametrize(("name", "head"), [("one-layer", True), ("parity", True), ("no-chain", False)])
def test_a_control_is_searched_where_it_writes_its_states_and_not_edited(tmp_path, name, head):
    condition = STUDY.conditions()[name]
    found = measured(tmp_path, name, Transformer.for_task(condition.task, condition.model))
    assert (found.head is not None) == head
    assert found.tests is found.transfer is found.emergence is found.untrained is None
    assert set(found.accuracy) == {4, 5, 6}


# How a model is trained ----------------------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch):
    """The arguments of a training that is not made."""
    given = {}

    def train(model, loss, batch_at, config, *, evaluate, checkpoint=None, record=None):
        given.update(
            model=model, loss=loss, batch_at=batch_at, config=config, evaluate=evaluate, record=record, path=checkpoint
        )
        if checkpoint:
            checkpoint.touch()
        return Training(history=HISTORY)

    monkeypatch.setattr(study, "train", train)
    return given


def test_an_arm_is_trained_by_its_settings_and_followed_on_validation_inputs(trained, tmp_path):
    condition, wide = (
        STUDY.conditions()["one-head" if "one-head" in STUDY.conditions() else "main"],
        Polynomial(p=5, lengths=(1, 16)),
    )
    condition = replace(condition, task=wide)
    model, history = STUDY.train_condition(condition, 3, tmp_path, film=True)
    fresh_model = Transformer.for_task(wide, condition.model, 3)
    assert history == HISTORY == read_metrics(tmp_path / "metrics.jsonl")
    assert trained["config"] == condition.train
    for name, weight in fresh_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    followed = held_out(wide, range(4, 17), 16 // 13, "validation", seed=3)
    assert trained["evaluate"](model) == evaluate.evaluation_metrics(model, followed)
    trained["record"](model, 5)
    again, _ = STUDY.train_condition(condition, 3, tmp_path)  # which finds the model
    assert torch.equal(again.embedding.weight, model.embedding.weight)
    assert (tmp_path / study.HISTORY_FILE).exists()
    (scenes,) = [trained["record"].__self__.scenes]
    assert [scene.title for scene in scenes] == ["6 inputs", "10 inputs"]
    for length, scene in zip((6, 10), scenes, strict=True):
        assert scene.names == tuple(decode(wide, scene.tokens.tolist()))
        assert scene.links["carry"] == [[length + t, t] for t in range(1, length + 1)]
        assert scene.tokens.tolist() == held_out(wide, [length], 1, seed=3)[length].tokens[0].tolist()


def test_fine_tuning_goes_on_from_the_model_on_parity_and_measures_that(trained, blurred, tmp_path):
    found = measured(tmp_path, "one-length", blurred)
    parity = Parity(lengths=TASK.lengths, alphabet=5)
    test, followed = held_out(parity, range(4, 7), 8), held_out(parity, range(4, 7), 16 // 3, "validation")
    assert trained["config"] == STUDY.transfer
    assert torch.equal(trained["model"].embedding.weight, blurred.embedding.weight)
    assert torch.equal(trained["batch_at"](1).tokens, training_batches(parity, 0, 2, pack)(1).tokens)
    assert trained["evaluate"](blurred) == evaluate.evaluation_metrics(blurred, followed)
    assert read_metrics(tmp_path / "transfer.jsonl") == HISTORY
    assert found.transfer.accuracy == evaluate.free_running_accuracy(blurred, parity, test)
    assert found.transfer.head == evaluate.search_iteration_head(blurred, test) != found.head
    assert found.transfer.solved_at == 20


def test_the_end_of_a_sequence_counts_more_in_the_loss_than_a_state(trained, tmp_path):
    replace(STUDY, end_weight=3.0).train_condition(STUDY.conditions()["main"], 0, tmp_path)
    model = trained["model"]
    scored = pad(TASK.sample(np.random.default_rng(0), 3, length=4))
    surprises, weights = [], []
    logits = scored.logits(model).detach()
    for row, targets in enumerate(scored.targets.tolist()):
        for at, target in enumerate(targets):
            if target != IGNORE:
                surprises.append(-F.log_softmax(logits[row, at], dim=-1)[target].item())
                weights.append(3.0 if target == TASK.end_of_sequence else 1.0)
    expected = np.dot(surprises, weights) / sum(weights)
    assert trained["loss"](model, scored).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batches", ["packed", "padded", "sweep"])
def test_rows_are_laid_out_as_the_settings_say(batches):
    task = Polynomial(p=5, lengths=(4, 6))
    found = replace(STUDY, task=task, batches=batches).batches_of(task, 2, 8, growth=0)
    expected = {
        "packed": training_batches(task, 2, 8, pack),
        "padded": training_batches(task, 2, 8, pad),
        "sweep": epoch_batches(task, 2, 8),
    }
    for step in (0, 3):
        one, other = found(step), expected[batches](step)
        assert isinstance(one, ScoredBatch)
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.targets, other.targets)


def test_models_are_judged_from_four_inputs_on():
    assert lengths_of(Polynomial(lengths=(1, 6))) == [4, 5, 6]
    assert lengths_of(Polynomial(lengths=(5, 7))) == [5, 6, 7]
    assert lengths_of(Polynomial(lengths=6)) == [6]


def test_jobs_are_one_per_condition_and_seed():
    names = [(job.name, job.seed) for job in STUDY.jobs()]
    assert sorted(names) == sorted((name, seed) for name in STUDY.conditions() for seed in (0, 1))
    assert all(isinstance(job, Job) and job.what == STUDY.conditions()[job.name].of(job.seed) for job in STUDY.jobs())
    assert json.dumps([job.name for job in STUDY.jobs()[:2]]) == '["main", "main"]'


def test_only_fresh_models_have_a_polynomial_of_their_own_seed():
    for job in STUDY.jobs():
        task = STUDY.conditions()[job.name].task
        assert job.what.task == (STUDY.task.instance(job.seed) if job.name == "fresh" else task)
    first, second = (STUDY.task.instance(seed) for seed in (0, 1))
    assert first.coefficients != second.coefficients
    assert replace(first, coefficients=STUDY.task.coefficients) == STUDY.task


def test_models_of_each_map_are_fine_tuned_on_every_other_one(monkeypatch, tmp_path):
    seven = replace(TASK, p=7)
    study, source = replace(STUDY, task=seven, parts=("pairs",)), iteration_head(seven)
    conditions = study.conditions()
    kinds = {"main": Polynomial, "parity": Parity, "copy": Copy, "sum": ModularSum, "word": WordProblem}
    shared = {(c.model, c.task.lengths, len(c.task.vocabulary)) for c in map(conditions.__getitem__, kinds)}
    assert shared == {(study.model, TASK.lengths, len(seven.vocabulary))}
    asked = []

    def learn(self, model, task, seed, training, growth=0, **options):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), source.parameters(), strict=True))
        next(model.parameters()).data.add_(1)
        asked.append((type(task), seed, training, growth, options))
        return Training(history=HISTORY[: 3 if task.values == 6 else 2])

    monkeypatch.setattr(IterationHeadStudy, "_learn", learn)
    for start in kinds:
        (job,) = [job for job in study.jobs() if (job.name, job.seed) == (f"pairs-{start}", 1)]
        for folder in (tmp_path / "seed-1" / start, tmp_path / "seed-1" / job.name):
            folder.mkdir(parents=True, exist_ok=True)
        save_model(tmp_path / "seed-1" / start / "model.safetensors", source)
        others = [name for name in kinds if name != start]
        assert study.run_job(job, tmp_path / "seed-1" / job.name) == PairsResult(
            solved_at={name: 20 if name == "word" else None for name in others}
        )
        assert asked == [(kinds[name], 1, study.transfer, 0, {}) for name in others]
        assert read_metrics(tmp_path / "seed-1" / job.name / f"{others[0]}.jsonl") == HISTORY[:2]
        asked.clear()
    assert not [job for job in STUDY.jobs() if job.name.startswith("pairs")]


def test_an_arm_differs_from_the_main_one_in_what_its_name_says():
    settings = IterationHeadStudy(train=TrainConfig(stop_at=0.5, warmup=300))
    conditions = settings.conditions()
    main = conditions["main"]
    sure = replace(main.train, stop_at=0.9)
    parity = Parity(lengths=(1, 16), alphabet=11)
    assert (main.task, main.model, main.train) == (settings.task, settings.model, settings.train)
    assert conditions == {
        "main": main,
        "fresh": replace(main, fresh=True),
        "one-head": replace(main, model=replace(main.model, heads=1)),
        "parity": replace(main, task=parity, train=sure),
        "one-layer": replace(main, model=replace(main.model, layers=1)),
        "one-length": replace(main, task=replace(main.task, lengths=16)),
        "no-chain": replace(main, task=replace(main.task, chain_of_thought=False)),
        "parity-no-chain": replace(main, task=replace(parity, chain_of_thought=False), train=sure),
    }
    assert "one-head" not in replace(settings, model=replace(settings.model, heads=1)).conditions()
    certain = replace(settings, train=replace(settings.train, stop_at=0.95)).conditions()
    assert certain["parity"].train.stop_at == 0.95


def test_only_main_models_are_filmed(monkeypatch, tmp_path):
    filmed = {}

    def train_condition(self, condition, seed, folder, film=False):
        filmed[folder.name] = film
        raise KeyboardInterrupt

    monkeypatch.setattr(IterationHeadStudy, "train_condition", train_condition)
    for job in STUDY.jobs():
        with pytest.raises(KeyboardInterrupt):
            STUDY.run_job(job, tmp_path / job.name)
    assert [name for name, film in filmed.items() if film] == ["main"]


@given(st.integers(0, 9), st.sampled_from([(1, 16), (3, 9), (12, 12), (2, 5)]))
def test_the_longest_training_sequences_grow_to_those_of_the_task(seed, lengths):
    task = Polynomial(lengths=lengths)
    batch_at = IterationHeadStudy(batches="padded").batches_of(task, seed, 8, growth=256)
    first = max(lengths[0], min(4, lengths[1]))
    for block, step in enumerate(range(0, 320, 64)):
        longest = [round(first * (lengths[1] / first) ** (step / 256)), lengths[1]][block == 4]
        drawn = replace(task, lengths=(lengths[0], longest)).sample(stream(seed, "train", block), 8 * 64).rows(0, 8)
        assert torch.equal(batch_at(step).tokens, pad(drawn).tokens)


def test_without_growth_the_batches_are_those_of_the_task():
    task = Polynomial(lengths=(1, 9))
    found, plain = IterationHeadStudy().batches_of(task, 3, 8, growth=0), training_batches(task, 3, 8)
    assert all(torch.equal(found(step).tokens, plain(step).tokens) for step in (0, 63, 64))
