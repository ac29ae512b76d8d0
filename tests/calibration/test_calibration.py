"""Laws of calibration: every detector keeps its floor, a wrong one is caught, and the arithmetic is right."""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from toylab import cli
from toylab.calibration import (
    Calibration,
    Case,
    Detector,
    DetectorInput,
    Rate,
    calibrate,
    calibrate_all,
    calibration_json,
    calibration_table,
    detector,
    detector_names,
    detectors,
)
from toylab.calibration.counting import EncodedOnes, region_score
from toylab.probes import link_mass, permutation_sensitivity


def keeps_its_floor(found: Calibration) -> None:
    hits = found.rate(group="plant", noise=0.0)
    alarms = found.rate(group="control")
    assert hits.share >= 0.95, found
    assert alarms.share <= 0.05, found
    assert found.hits.share >= 0.95, found
    assert found.false_alarms.share <= 0.05, found


def untrained(one: Detector) -> Detector:
    """Without the cases that are trained first, which takes seconds."""
    kinds = {
        group: {kind: make for kind, make in getattr(one, group).items() if not kind.startswith("trained")}
        for group in ("planted_positives", "controls")
    }
    return replace(one, **kinds)


@pytest.mark.slow
@pytest.mark.parametrize("name", detector_names())
def test_bars_are_among_those_that_do_best_and_noise_ends_every_finding(name):
    found = calibrate(detector(name), seed=2, each=10, levels=(1.0,))
    keeps_its_floor(found)
    low, high = found.best_bars
    assert low < found.detector.threshold <= high, found
    assert found.rate(group="plant", noise=0.0).of >= 30
    assert found.rate(group="control").of >= 40
    assert found.rate(group="plant", noise=1.0).share <= 0.25, found


WRONG = {
    "always found": ("induction-head", lambda shown: 1.0),
    "never found": ("induction-head", lambda shown: 0.0),
    "any sharp head": (
        "induction-head",
        lambda shown: max(float(p.max(dim=-1).values.mean()) for p in shown.patterns[0][1:]),
    ),
    "a head on the previous token": (
        "induction-head",
        lambda shown: max(
            float(link_mass(p, shown.batches[0].links["previous token"]).max()) for p in shown.patterns[0]
        ),
    ),
    "the diagonal at one length": (
        "iteration-head",
        lambda shown: max(float(link_mass(p, shown.batches[-1].links["carry"]).max()) for p in shown.patterns[-1]),
    ),
    "a share without its baseline": (
        "null-space-lift",
        lambda shown: 2 * float(detector("null-space-lift").score_of(shown) > 0.5),
    ),
    "distance without a scale": (
        "cluster-separation",
        lambda shown: float((shown.first.mean(dim=0) - shown.second.mean(dim=0)).norm()),
    ),
    "order instead of positions": (
        "positions",
        lambda shown: permutation_sensitivity(*shown[:2], np.random.default_rng(0)).relative,
    ),
    "a lens on one token": (
        "first-token-substitution",
        lambda shown: float(shown.direction @ shown.rows[0] / shown.direction.norm() / shown.rows[0].norm()),
    ),
}


DEAR = {"circuit", "iteration-head", "induction-head", "region-probe", "sae-feature"}
"""Detectors whose cases take longest; the slow lane shows more of them."""


def remembering(make: Callable[..., DetectorInput]) -> Callable[..., DetectorInput]:
    """The same exhibits, each made once: what it is made from is the state of its source and a share of noise."""
    made: dict[tuple, DetectorInput] = {}

    def remembered(rng: np.random.Generator, *noise: float) -> DetectorInput:
        key = (rng.bit_generator.state["state"]["state"], *noise)
        if key not in made:
            made[key] = make(rng, *noise)
        return made[key]

    return remembered


@pytest.mark.parametrize("name", detector_names())
def test_every_detector_finds_what_is_there_and_nothing_else_and_a_wrong_probe_is_caught(name):
    one = untrained(detector(name))
    one = replace(
        one,
        planted_positives={kind: remembering(make) for kind, make in one.planted_positives.items()},
        controls={kind: remembering(make) for kind, make in one.controls.items()},
        decoys={},
    )
    each = 2 if name in DEAR else 4
    keeps_its_floor(calibrate(one, seed=1, each=each, levels=()))
    for mistake, (whose, look) in WRONG.items():
        if whose == name:
            is_caught(calibrate(replace(one, score_of=look), seed=1, each=each, levels=()), mistake)


def is_caught(found: Calibration, mistake: str) -> None:
    low, high = found.best_bars
    best = (low + high) / 2 if math.isfinite(low) else high
    hits = found.rate(best, group="plant", noise=0.0, held_out=True).share
    alarms = found.rate(best, group="control", held_out=True).share
    assert found.hits.share < 0.95 or found.false_alarms.share > 0.05, mistake
    assert hits < 0.95 or alarms > 0.05, mistake  # and no other bar would have helped


def test_every_wrong_probe_is_tried_in_the_place_of_one_of_ours():
    assert {whose for whose, _ in WRONG.values()} <= set(detector_names())


def test_a_detector_that_gives_no_number_is_named_with_the_kind_of_case():
    one = replace(detector("cluster-separation"), score_of=lambda shown: math.nan)
    with pytest.raises(ValueError, match="cluster-separation: scores nan on a plant of the kind 'two clouds'"):
        calibrate(one, each=2, levels=())


def test_a_region_that_is_always_the_same_is_not_seen():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    assert region_score(EncodedOnes(x, torch.zeros(12, dtype=torch.long), torch.arange(12) // 2, 0)) == 0


# Arithmetic ----------------------------------------------------------------------------------------------------------


def toy(plants: list[float], controls: list[float], bar: float = 0.5) -> Calibration:
    """Scores as they come, every second one held back."""
    one = Detector("toy", "is it?", "a number", float, bar, {}, {}, {})
    cases = [Case("plant", "p", 0.0, k % 2 == 1, score, None) for k, score in enumerate(plants)]
    cases += [Case("control", "c", 0.0, k % 2 == 1, score, None) for k, score in enumerate(controls)]
    return Calibration(one, tuple(cases))


def test_hits_and_false_alarms_are_counted_on_what_was_held_back():
    found = toy([0.9, 0.9, 0.8, 0.4], [0.9, 0.1, 0.2, 0.5])
    assert (found.hits, found.false_alarms) == (Rate(1, 2), Rate(1, 2))
    assert str(found.hits) == "1/2 [9-91]"


def test_the_best_bars_come_from_the_other_half_and_lie_between_its_groups():
    assert toy([0.9, 0.0, 0.7, 0.0], [0.2, 1.0, 0.3, 1.0]).best_bars == (0.3, 0.7)
    # One plant lies among the controls: two bars tell as much apart, the lowest is taken.
    assert toy([0.9, 0.0, 0.1, 0.0], [0.2, 1.0, 0.05, 1.0]).best_bars == (0.05, 0.1)
    assert toy([0.6, 0.0, 0.6, 0.0], [0.6, 0.0, 0.6, 0.0]).best_bars == (-math.inf, 0.6)


def test_where_it_breaks_is_the_first_share_of_noise_with_fewer_than_half():
    one = Detector("toy", "is it?", "a number", float, 0.5, {}, {}, {})
    cases = [
        Case("plant", "p", noise, False, 1.0 if number < found else 0.0, works)
        for noise, found, works in ((0.0, 4, 1.0), (0.1, 4, 0.4), (0.2, 2, 0.3), (0.3, 1, 0.0))
        for number in range(4)
    ]
    found = Calibration(one, tuple(cases))
    assert (found.breaking_noise, found.failing_noise) == (0.3, 0.1)
    assert found.mean_accuracy(0.2) == pytest.approx(0.3)
    assert toy([1.0, 1.0], [0.0, 0.0]).breaking_noise is None


def test_a_detector_of_ones_own_is_tried_on_cases_of_ones_own():
    mine = Detector(
        name="mine",
        question="is it above zero?",
        score="itself",
        score_of=lambda shown: shown,
        threshold=0.0,
        planted_positives={"above": lambda rng, noise: DetectorInput(1 - 2 * noise + 0.1 * rng.random(), 1 - noise)},
        controls={"below": lambda rng: DetectorInput(-rng.random())},
        decoys={"above by luck": lambda rng: DetectorInput(rng.random())},
    )
    found = calibrate(mine, each=6, levels=(0.2, 0.9))
    assert (found.hits, found.false_alarms, found.breaking_noise) == (Rate(3, 3), Rate(0, 3), 0.9)
    assert found.rate(group="deceiver") == Rate(6, 6)
    text = str(found)
    for piece in ("mine: is it above zero?", "hits 3/3", "deceiver", "90 %", "<- in use"):
        assert piece in text
    with pytest.raises(ValueError, match="each=1"):
        calibrate(mine, each=1)


def test_more_cases_leave_the_others_as_they_are():
    few, many = (calibrate(detector("null-space-lift"), seed=3, each=n, levels=()) for n in (2, 4))
    assert set(few.cases) <= set(many.cases)
    again = calibrate(detector("null-space-lift"), seed=4, each=2, levels=())
    assert not {case.score for case in again.cases if case.group == "control"} <= {c.score for c in many.cases}


def test_every_detector_has_plants_and_look_alikes_and_says_what_it_asks():
    for name, one in detectors().items():
        assert one.name == name
        assert len(one.planted_positives) >= 3
        assert len(one.controls) >= 4
        assert one.question.endswith("?")
    with pytest.raises(ValueError, match="there is no probe 'sae-featur'"):
        detector("sae-featur")


# The command ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_a_table_a_page_and_json(capsys):
    fast = ["first-token-substitution", "null-space-lift"]
    assert cli.run(["calibrate", *fast, "--each", "2", "--workers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["probe"] for one in found] == fast
    direct = calibrate(detector(fast[0]), each=2)
    assert found[0] == json.loads(json.dumps(calibration_json(direct)))
    assert str(direct).startswith("first-token-substitution: does a direction raise")
    (apart,) = calibrate_all(fast[1:], each=2, workers=2)  # in a process of its own
    assert found[1] == json.loads(json.dumps(calibration_json(apart)))
    lines = calibration_table([direct, apart]).splitlines()
    assert lines[0].split() == ["probe", "cutoff", "best", "hits", "false", "alarms", "noise"]
    assert [line.split()[0] for line in lines[1:]] == fast
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["nul"], "there is no probe 'nul'"), (["--each", "1"], "each=1: must be"), (["--workers", "0"], "workers=0")],
)
def test_mistakes_are_said_in_one_line(flags, message, capsys):
    assert cli.run(["calibrate", *flags]) == 2
    assert message in capsys.readouterr().err


def test_scores_are_never_what_is_no_number():
    for name in ("first-token-substitution", "cluster-separation", "bias-token"):
        assert all(np.isfinite(case.score) for case in calibrate(detector(name), each=2, levels=(0.5, 1.0)).cases)


def test_a_calibration_that_is_stopped_does_not_promise_to_go_on(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("toylab.calibration.calibrate_all", interrupted)
    assert cli.run(["calibrate"]) == 130
    assert capsys.readouterr().err == "\ntoylab: stopped\n"
