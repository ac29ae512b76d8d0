"""Laws of the iteration-head study that need no training."""

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.probes import IterationHead
from toylab.settings import as_json, fit
from toylab.studies.iteration_head.claims import claims
from toylab.studies.iteration_head.measures import CausalTests, Emergence, IterationResult, Transfer
from toylab.studies.iteration_head.study import IterationHeadStudy, guesses, lengths_of
from toylab.tasks import IGNORE, Polynomial, stream
from toylab.training.evaluate import Accuracy
from toylab.verdicts.claim import Conditions, judge_claims


@pytest.mark.parametrize("preset", ["quick", "default"])
def test_no_training_ends_because_guessing_is_often_right(preset):
    """The best constant answer, the whole of what is written, must stay clear of the value at which training stops."""
    for name, arm in getattr(IterationHeadStudy, preset)().arms().items():
        batch = arm.task.sample(stream(0, "guess"), 2000, length=arm.task.longest)
        answers = Counter(tuple(row[row != IGNORE].tolist()) for row in batch.targets)
        (_, count), *_ = answers.most_common(1)
        assert arm.train.stop_at > count / 2000 + 0.2, name


def test_what_is_given_as_no_stop_rule_is_none_in_every_arm():

    study = IterationHeadStudy()
    arms = replace(study, train=replace(study.train, stop_at=None)).arms()
    assert {arm.train.stop_at for arm in arms.values()} == {None}


# Guessing ------------------------------------------------------------------------------------------------------------


@given(
    st.sampled_from([2, 3, 5]),
    st.tuples(*[st.integers(0, 4)] * 4),
    st.sampled_from(["first-input", "zero"]),
    st.sets(st.integers(1, 4), min_size=1),
)
def test_guessing_is_as_good_as_the_best_guess_over_all_inputs(p, coefficients, start, lengths):
    task = Polynomial(p=p, coefficients=coefficients, start=start, lengths=(1, 4))
    last, tokens = Counter(), []
    for length in sorted(lengths):
        rows = list(itertools.product(task.inputs, repeat=length))
        seen = defaultdict(Counter)
        for inputs in rows:
            states = task.trace(list(inputs), None if start == "first-input" else 0)
            last[states[-1]] += 1 / len(rows)
            for t, state in enumerate(states):
                seen[t, states[t - 1] if t else None][state] += 1 / len(rows)
        tokens.append((1 + sum(max(after.values()) for after in seen.values())) / (length + 1))
    constant, blind = guesses(task, sorted(lengths))
    assert constant == pytest.approx(max(last.values()) / len(lengths))
    assert blind == pytest.approx(fmean(tokens))


# Verdicts on findings that are made up -------------------------------------------------------------------------------

EXACT = Accuracy(sequence=1.0, token=1.0, state=1.0)


def head_of(carry: float) -> IterationHead:
    return IterationHead(
        layer=1, head=0, carry=carry, stop=1.0, end_of_input=0.8, end_of_input_at=(0, 0), misses=(), backups=()
    )


def finding(accuracy=1.0, carry=1.0, zeroed=0.2, solved_at=60, end=0, left=0.0, inputs=1.0) -> IterationResult:
    """What a job of a main model measures."""
    return IterationResult(
        accuracy={4: accuracy, 5: accuracy},
        steps=100,
        solved_at=solved_at,
        head=head_of(carry),
        invariance=0.9,
        steered=1.0,
        tests=CausalTests(
            unedited=EXACT,
            zeroed=Accuracy(sequence=left, token=zeroed, state=0.1),
            zeroed_alone=EXACT,
            uniform=EXACT,
            zeroed_on_inputs=replace(EXACT, sequence=inputs),
            ideal_pattern=EXACT,
            first_layer_zeroed=EXACT,
            first_layer_ideal_pattern=EXACT,
        ),
        emergence=Emergence(end_of_input=end, carry=40, accuracy=40),
        transfer=Transfer(mass_by_symbol={0: 0.9, 1: 0.9}, solved_at=solved_at, accuracy={4: 1.0}, head=head_of(carry)),
    )


def verdicts(guess=1 / 11, blind=0.2509, steps=300, main=None, **controls: IterationResult) -> dict:
    found = {"one-layer": finding(0.05), "one-length": finding(carry=0.1), "parity": finding(),
             "no-chain": finding(0.1), "parity-no-chain": finding(0.5), "main": main or finding()}  # fmt: skip
    found |= {name.replace("_", "-"): result for name, result in controls.items()}
    results = Conditions({name: dict.fromkeys(range(6), result) for name, result in found.items()})
    return {claim.id: claim for claim in judge_claims(claims(guess, blind, steps, "main"), results)}


def test_results_survive_their_json_form():
    for result in (finding(), IterationResult(accuracy={4: 0.5}, steps=3, solved_at=None)):
        assert fit(IterationResult, json.loads(json.dumps(as_json(result, "result"))), "result") == result


@pytest.mark.parametrize(
    ("id", "change"),
    [
        ("accuracy", {"main": finding(0.9)}),
        ("head", {"main": finding(carry=0.5)}),
        ("ablate", {"main": finding(zeroed=0.3)}),
        ("ablate-sequences", {"main": finding(left=0.1)}),
        ("ablate-inputs", {"main": finding(inputs=0.9)}),
        ("cot-needed", {"no_chain": finding(0.2)}),
        ("cot-needed-parity", {"parity_no_chain": finding(0.7)}),
        ("varied-lengths", {"one_length": finding(carry=0.9)}),
        ("transfer", {"main": finding(solved_at=None)}),
        ("emergence", {"main": finding(end=80)}),
    ],
)
def test_a_finding_passes_its_bar_or_misses_it(id, change):
    assert verdicts()[id].verdict == "holds"
    assert verdicts(**change)[id].verdict == "fails"


def test_one_layer_alone_is_withdrawn():
    assert {id for id, claim in verdicts().items() if claim.verdict != "holds"} == {"depth"}
    assert verdicts()["depth"].verdict == "withdrawn"


@pytest.mark.parametrize(("main", "learned"), [(finding(carry=0.6), True), (finding(0.5, carry=0.6), False)])
def test_what_is_said_of_the_main_models_is_what_was_measured(main, learned):
    found = verdicts(main=main)
    assert found["accuracy"].measured == learned
    told = [id for id, claim in found.items() if "no main model learned the task" in claim.note]
    assert told == ([] if learned else ["cot-needed", "cot-needed-parity"])
    without_a_head = {id for id, claim in found.items() if "has the head here" in claim.note}
    assert {"ablate", "transfer", "varied-lengths"} <= without_a_head
    assert {found[id].verdict for id in without_a_head} == {"open"}


def test_bars_follow_from_what_guessing_gives_and_from_the_steps():
    assert verdicts(guess=1 / 7, no_chain=finding(0.19))["cot-needed"].verdict == "holds"
    assert verdicts(blind=0.37, main=finding(zeroed=0.35))["ablate"].verdict == "holds"
    assert verdicts(steps=120, main=finding(solved_at=110))["transfer"].verdict == "holds"
    assert "<= 120" in verdicts(steps=120)["transfer"].bar
    assert verdicts(guess=0.99)["cot-needed"].verdict == "open"


def test_at_the_default_settings_bars_are_what_they_were():
    task = IterationHeadStudy().task
    bars = {claim.id: claim.bar for claim in IterationHeadStudy().claims()}
    assert guesses(task, lengths_of(task)) == pytest.approx((1 / 11, 0.2509), abs=1e-4)
    assert "<= 0.15" in bars["cot-needed"]
    assert "<= 0.25" in bars["ablate"]


def test_a_training_that_does_not_get_there_never_does():
    details = verdicts(one_length=finding(solved_at=None), parity=finding(solved_at=None))["transfer"].details
    assert set(details["steps from scratch"].values()) == {"never"}
    assert set(details["steps, from a model without the head"].values()) == {"never"}
    assert set(details["by seed"].values()) == {60}
