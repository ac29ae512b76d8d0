"""Laws of the bench: what is compared is the same work, verdicts follow from the numbers, and nothing is lost."""

import json
import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from toylab import bench, cli
from toylab.bench import Comparison, growth, inference, startup, time_to_result, training
from toylab.bench.peers import TORCH, adamw_step, language_model_loss, peer_config, peer_models, random_tokens
from toylab.console import ToylabError, align_columns
from toylab.model.transformer import Transformer
from toylab.runs import registry
from toylab.runs.judge import settings_from_json
from toylab.runs.store import read_settings
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.tasks import Polynomial, stream
from toylab.training.batches import next_token_loss, pack


def test_every_work_is_a_function():
    assert all(callable(bench.benchmark(name)) for name in bench.WORKS)
    assert len(set(bench.WORKS.values())) == len(bench.WORKS)
    assert set(bench.LONG_WORKS) | set(bench.GPU_WORKS) <= set(bench.WORKS)


@pytest.mark.parametrize("name", registry.study_names())
def test_the_training_of_every_study_is_timed_on_its_own_batches(name):
    model, loss, batch_at = startup.study_training(name)
    value = loss(model, batch_at(0))
    value.backward()
    assert math.isfinite(value.item())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
def test_the_models_that_are_compared_have_matrices_of_the_same_size():
    held = peer_models(peer_config(16), 10, "cpu")
    sizes = {name: sum(p.numel() for p in m.parameters() if p.ndim > 1) for name, m in held.items()}
    assert sizes["ours"] == sizes[TORCH]


def test_the_other_model_is_a_causal_language_model():
    model, drawn = peer_models(peer_config(16), 10, "cpu")[TORCH], random_tokens(3, 10, "cpu")
    model.eval()
    changed = drawn.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 24
    before, after = model(drawn), model(changed)
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6:], before[:, 6:])


def test_packed_and_padded_rows_have_the_same_loss_so_that_an_epoch_is_the_same_work():
    task = Polynomial()
    batch = task.sample(stream(0, "bench"), 33)
    model = Transformer.for_task(task, peer_config(16)).double()
    logits = model(torch.from_numpy(batch.tokens)).flatten(0, 1)
    padded = F.cross_entropy(logits, torch.from_numpy(batch.targets).flatten())
    torch.testing.assert_close(next_token_loss(model, pack(batch)), padded, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["ours", TORCH])
def test_the_steps_that_are_timed_do_train(name):
    model, drawn = peer_models(peer_config(16), 10, "cpu")[name], random_tokens(8, 11, "cpu")
    loss = language_model_loss(model, drawn)
    before = loss().item()
    if name == "ours":
        with training.flat_step(model) as step:
            for _ in range(20):
                step(loss)
    else:
        step = adamw_step(model)
        for _ in range(20):
            step(loss)
    assert loss().item() < before - 0.1


def test_the_products_of_a_step_have_as_many_operations_as_torch_counts_in_it():
    from torch.utils.flop_counter import FlopCounterMode

    config, rows, length = peer_config(16), 3, 8
    model = Transformer(config, 24, length)
    with FlopCounterMode(display=False) as counted:
        language_model_loss(model, random_tokens(rows, length + 1, "cpu"))().backward()
    head = 3 * 2 * rows * length * 16 * 24  # the unembedding, which `matrix_products` leaves out
    assert training.matrix_products(config, rows, length, "cpu")[1] == counted.get_total_flops() - head


@pytest.mark.parametrize(
    "work",
    [
        training.bench_step,
        pytest.param(training.bench_epoch, marks=pytest.mark.slow),
        inference.bench_watch,
        inference.bench_edit,
    ],
)
def test_short_works_give_finite_ratios(work, monkeypatch):
    monkeypatch.setattr(training, "SHAPES", ((16, 6),))
    found = list(work("cpu", rounds=1))
    assert found
    assert all(0 < one.ratio < math.inf for one in found)
    assert all(one.peers for one in found)


# Numbers and words ---------------------------------------------------------------------------------------------------


def test_works_are_interleaved_and_the_first_rounds_are_not_counted():
    called = []
    found = bench.interleaved_timings({name: lambda name=name: called.append(name) for name in "ab"}, rounds=3)
    rounds = ["".join(sorted(called[k : k + 2])) for k in range(0, 10, 2)]
    assert rounds == ["ab"] * 5
    assert len({tuple(called[k : k + 2]) for k in range(0, 10, 2)}) == 2, "one always came first"
    assert [len(seconds) for seconds in found.values()] == [3, 3]


def test_a_ratio_is_the_median_over_rounds_and_not_the_ratio_of_medians():
    seconds = {"ours": [1.0, 2.0, 30.0], "theirs": [2.0, 2.0, 10.0]}
    found = bench.compare_with_peer("work", seconds, "theirs", 1.0)
    assert found.ratio == 1.0
    assert (found.ours, found.peers) == (2000.0, {"theirs": 2000.0})


@pytest.mark.parametrize(
    ("ratio", "target", "more", "met"),
    [(0.6, 0.6, False, 1), (0.604, 0.6, False, 1), (0.61, 0.6, False, 0), (5.0, 5, True, 1), (4.9, 5, True, 0)],
)
def test_a_target_is_met_at_the_digits_that_are_shown(ratio, target, more, met):
    assert Comparison("work", ratio, "ms", target, ratio, more=more).met == bool(met)


def test_what_falls_short_is_said_in_plain_words():
    slow = Comparison("a step", 3.0, "ms", 0.6, 0.75, {"another": 4.0})
    assert str(slow) == "a step: 0.75 of another, 20 % short of at most 0.6"
    few = Comparison("drawing", 4.0, "M tokens/s", 5, 4.0, more=True)
    assert str(few) == "drawing: 4.00 M tokens/s, 25 % short of at least 5"
    many = Comparison("drawing", 6.0, "M tokens/s", 5, 6.0, more=True)
    assert str(many) == "drawing: 6.00 M tokens/s, target at least 5"


@given(st.floats(1e-4, 1e6))
def test_numbers_are_short_and_keep_three_digits_or_two_behind_the_point(value):
    text = bench.format_number(value)
    assert len(text) <= 8
    assert float(text) == pytest.approx(value, rel=0.06)


def test_the_table_shows_every_comparison_in_one_line():
    found = [Comparison("a step", 3.0, "ms", 0.6, 0.75, {"another": 4.0}), Comparison("b", 2.0, "s", 3, 2.0)]
    head, first, second = align_columns(bench.comparison_rows(found)).splitlines()
    assert head.split() == ["work", "ours", "peer", "ratio", "target"]
    assert first.split() == ["a", "step", "3.00", "ms", "4.00", "another", "0.75", "<=", "0.6", "short"]
    assert second.split() == ["b", "2.00", "s", "<=", "3"]


def test_what_was_stored_is_compared_with_the_next_bench_of_the_same_processor(tmp_path):
    def found(ratio: float) -> list[Comparison]:
        return [Comparison("a step", 3.0, "ms", 0.6, ratio, {"another": 4.0})]

    about = {"date": "2026-01-02T03:04:05+00:00", "processor": "one", "device": "cpu"}
    path = bench.keep_record(tmp_path, found(0.5), about)
    held = json.loads(path.read_text(encoding="utf-8"))
    assert held["processor"] == "one"
    assert held["found"][0] | {"work": "a step", "ratio": 0.5, "met": True} == held["found"][0]
    for name in ("processor", "device"):
        assert bench.earlier_ratios(tmp_path, about | {name: "another"}) == {}
    earlier = bench.earlier_ratios(tmp_path, about)
    assert bench.changes_since(found(0.52), earlier) == []
    assert bench.changes_since(found(0.6), earlier) == ["a step: 0.60, worse than 0.50"]
    assert bench.changes_since(found(0.4), earlier) == ["a step: 0.40, better than 0.50"]


def test_growth_in_the_same_folder_is_no_bench_to_compare_with(one_work, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        growth, "growth_curves", lambda device: [growth.GrowthCurve("work", "size", (1, 2, 4, 8), (0.1, 0.1, 0.2, 0.4))]
    )
    assert cli.run(["bench", "growth", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"growth.json", "growth-size.svg"}
    held = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    assert held["processor"] == bench.machine_description()["processor"]
    assert held["curves"][0]["exponent"] == pytest.approx(1)
    assert cli.run(["bench", "step", "--out", str(tmp_path)]) == 0
    assert "since the previous benchmark" not in capsys.readouterr().out


def test_a_damaged_record_is_named(one_work, tmp_path, capsys):
    (tmp_path / "2026-01-02T030405.json").write_text("{", encoding="utf-8")
    assert cli.run(["bench", "step", "--out", str(tmp_path)]) == 2
    assert "2026-01-02T030405.json" in capsys.readouterr().err


@given(st.floats(0.2, 3), st.floats(1e-6, 1))
def test_the_exponent_of_a_power_law_is_found_beyond_a_constant_cost(power, scale):
    sizes = (8, 16, 32, 64, 128)
    curve = growth.GrowthCurve("work", "size", sizes, tuple(scale * n**power for n in sizes))
    assert curve.exponent == pytest.approx(power, abs=1e-6)


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_work(monkeypatch):
    """A bench whose only work takes no time."""

    def work(device: str):
        yield Comparison("a step", 3.0, "ms", 0.6, 0.75, {"another": 4.0}, note="what else")

    monkeypatch.setattr(training, "bench_step", work)


def test_the_command_prints_a_table_and_keeps_what_it_found(one_work, tmp_path, capsys):
    assert cli.run(["bench", "step", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for part in ("ratio", "GF/s", "a step: what else", "0 of 1 targets met", "20 % short of", "Written to"):
        assert part in shown
    (kept,) = tmp_path.glob("*.json")
    assert json.loads(kept.read_text(encoding="utf-8"))["matmul_gigaflops"] > 0


def test_the_command_prints_json(one_work, tmp_path, capsys):
    assert cli.run(["bench", "step", "--json", "--out", str(tmp_path)]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert set(one) >= {"work", "ours", "peers", "ratio", "target", "met"}
    assert not one["met"]


def test_the_command_prints_markdown(one_work, tmp_path, capsys):
    assert cli.run(["bench", "step", "--markdown", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "| --- | --- | --- | --- | --- | --- |"


def test_the_picture_of_steering_is_made_of_claims_that_there_are():
    claims = registry.load_study("steering-vectors").STUDY.default().claims()
    assert set(time_to_result.FIGURE_SETTINGS) <= {claim.id for claim in claims}


def test_what_was_found_before_a_failure_is_kept(monkeypatch, tmp_path):
    def work(device: str):
        yield Comparison("a step", 3.0, "ms", 0.6, 0.75)
        raise ToylabError("the disk is full")

    monkeypatch.setattr(training, "bench_step", work)
    assert cli.run(["bench", "step", "--out", str(tmp_path)]) == 2
    (kept,) = tmp_path.glob("*.json")
    assert [one["work"] for one in json.loads(kept.read_text(encoding="utf-8"))["found"]] == ["a step"]


@pytest.mark.slow
def test_all_studies_are_run_in_one_pool_and_each_is_finished(short_run, monkeypatch, tmp_path, capsys):
    held = read_settings(short_run / "settings.json")["settings"]
    study = settings_from_json(IterationHeadStudy.default(), held)
    monkeypatch.setattr(IterationHeadStudy, "quick", staticmethod(lambda: study))
    monkeypatch.setattr("toylab.runs.registry.study_names", lambda: ["iteration-head"])
    shutil.copytree(short_run, tmp_path / "iteration-head-quick")
    assert cli.run(["run", "all", "--preset", "quick", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith(f"Scoreboard: {tmp_path / 'scoreboard.html'}")
    assert (tmp_path / "iteration-head-quick" / "report.html").exists()


def test_seeds_are_given_to_all_studies(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(
        "toylab.runs.jobs.execute_all", lambda runs, *_, **__: seen.update({r.name: r.study for r in runs})
    )
    monkeypatch.setattr("toylab.runs.scoreboard.finish_all", str)
    command = ["run", "all", "--seeds", "7", "8", "9", "--out", str(tmp_path)]
    assert cli.run(command) == 0
    assert {study.seeds for study in seen.values()} == {(7, 8, 9)}
    assert sorted(seen) == ["contextual-counting", "iteration-head", "safety-finetuning", "steering-vectors"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "stpe"], ["stpe", "step"]),
        (["bench", "growth", "step"], ["growth", "alone"]),
        (["bench", "--device", "nowhere"], ["device=nowhere", "there are cpu"]),
        (["bench", "data", "--device", "meta"], ["'data'", "GPU"]),
        (["run", "all", "--seeds", "3", "--rows", "7"], ["--rows", "run all"]),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words, capsys):
    assert cli.run(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    for word in words:
        assert word in told
