"""Laws of the circuit finder on counters whose attention is a table: every number once more, token by token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from tests.studies.contextual_counting.planted import (
    Counter,
    balanced,
    classes,
    laid_out,
    table,
)
from toylab.probes import fit_saturation, name_circuit
from toylab.studies.contextual_counting import measures as circuits
from toylab.studies.contextual_counting.data import string_batch
from toylab.studies.contextual_counting.results import CLASSES, COUNTED, SLACK
from toylab.tasks import ContextualCounting, stream

TASK = ContextualCounting(length=(12, 16), regions=2)
BY_CLASS = CLASSES[1:]
seeds = st.integers(0, 2**31)


def drawn(seed: int, scale: float = 1.0) -> Counter:
    """A counter of two regions that compares with everything, and with zeros most of all."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.0, 0.3, size=(2, 7, 5))
    weights[:, :, 0] *= 3
    for label in range(2):
        weights[label, 2 * label + 1, 1] = 1.0
    return Counter(weights, half=rng.uniform(2, 6), scale=scale)


def mean(numbers) -> float:
    held = list(numbers)
    return sum(held) / len(held)


def slope(answers: list[int], counts: list[int]) -> float:
    return sum(a * n for a, n in zip(answers, counts, strict=True)) / sum(n * n for n in counts)


def compared(counter: Counter, rows: list[list[int]], changed: list[list[int]], label: int, places: bool) -> float:
    """K / K' in a loop: each token weighs what its class did on average, in its place if the class had tokens there."""
    mass, number, later = {}, {}, {}
    for row in rows:
        for key, weight in zip(kinds(row, label, places), counter.attention(row, label), strict=True):
            mass[key], number[key] = mass.get(key, 0.0) + weight, number.get(key, 0) + 1
    for row in changed:
        for key in kinds(row, label, places):
            later[key] = later.get(key, 0) + 1
    was = now = 0.0
    for name in BY_CLASS:
        of_class = [key for key in mass if key[0] == name]
        total = sum(mass[key] for key in of_class)
        usual = total / max(sum(number[key] for key in of_class), 1e-9)
        was += total
        now += sum(
            (mass[key] / number[key] if key in mass else usual) * n for key, n in later.items() if key[0] == name
        )
    return was / now


def kinds(row: list[int], label: int, places: bool) -> list[tuple[str, int]]:
    brackets, found = 0, []
    for token, name in zip(row, classes(row, label + 1), strict=True):
        brackets += token in (2, 3)
        found.append((name, brackets if places else 0))
    return found


@fewer(0.5)
@given(seeds, st.integers(1, 3))
def test_every_token_is_to_every_label_what_a_reader_from_left_to_right_calls_it(seed, regions):
    task = replace(TASK, regions=regions)
    found = string_batch(task, task.sample(stream(seed), 3, length=16))
    masks = circuits.key_classes(found)
    assert tuple(masks) == CLASSES
    for row, tokens in enumerate(found.tokens.tolist()):
        for label in range(regions):
            for at, name in enumerate(classes(tokens, label + 1)):
                assert [other for other, mask in masks.items() if mask[row, label, at]] == [name]


@fewer(0.3)
@given(seeds)
def test_the_planted_decoder_does_what_its_table_says(seed):
    counter = drawn(seed, scale=3.0)
    found = string_batch(TASK, balanced(TASK, 3, 6, 6, seed))
    logits = counter.model(found.tokens)
    for row, tokens in enumerate(found.tokens.tolist()):
        for label in range(2):
            assert logits[row, label].tolist() == pytest.approx(counter.logits(tokens, label))


# What a change does --------------------------------------------------------------------------------------------------


@fewer(0.5)
@given(seeds, st.integers(0, 9), st.booleans())
def test_the_effect_of_a_change_and_its_predictions_are_those_of_a_slow_loop(seed, zeros, added):
    counter = drawn(seed)
    batch = TASK.sample(stream(seed), 8, length=15)
    changed = TASK.append_zeros(batch, zeros)
    if added:
        changed = TASK.append_region(changed)
    before, after = string_batch(TASK, batch), string_batch(TASK, changed, labels=2)
    old, new = before.tokens.tolist(), after.tokens.tolist()
    for label, one in enumerate(circuits.measure_shifts(counter.model, before, after)):
        counts = before.counts[:, label].tolist()
        answers, later = ([counter.answer(row, label) for row in rows] for rows in (old, new))
        plain = slope(answers, counts)
        assert one.accuracy == pytest.approx(mean(a == n for a, n in zip(later, counts, strict=True)))
        assert one.before == pytest.approx(plain)
        assert one.after == pytest.approx(slope(later, counts))
        assert one.predicted == pytest.approx(plain * compared(counter, old, new, label, places=False))
        assert one.by_place == pytest.approx(plain * compared(counter, old, new, label, places=True))


def zeros_counter(zeros: int, behind: float = 1.0) -> Counter:
    """It compares with the zeros, so many in every string; those behind the last bracket weigh `behind` of others."""
    weights = table(2, zeros=0.5)
    weights[:, 4, 0] = 0.5 * behind
    return Counter(weights, half=0.5 * zeros)


def test_as_many_zeros_again_halve_what_a_counter_that_compares_with_them_says():
    batch = balanced(TASK, 60, zeros=8, ones=12)
    before = string_batch(TASK, batch)
    for n, factor in ((8, 1 / 2), (24, 1 / 4)):
        for one in circuits.measure_shifts(
            zeros_counter(8).model, before, string_batch(TASK, TASK.append_zeros(batch, n))
        ):
            assert one.before == 1
            assert one.accuracy < 0.6
            assert one.after == pytest.approx(factor, abs=0.1)
            assert one.predicted == pytest.approx(factor)
            assert one.by_place == pytest.approx(factor, abs=0.05)


def test_an_empty_region_changes_nothing_where_zeros_are_compared_with():
    batch = balanced(TASK, 30, zeros=8, ones=12)
    changed = string_batch(TASK, TASK.append_region(batch), labels=2)
    for one in circuits.measure_shifts(zeros_counter(8).model, string_batch(TASK, batch), changed):
        assert one.accuracy == one.before == one.after == 1
        assert (one.predicted, one.by_place) == pytest.approx((1, 1))


def test_zeros_that_weigh_nothing_behind_the_last_bracket_are_foretold_by_place_alone():
    batch = balanced(TASK, 60, zeros=8, ones=12)
    before, after = string_batch(TASK, batch), string_batch(TASK, TASK.append_zeros(batch, 16))
    for one in circuits.measure_shifts(zeros_counter(8, behind=0.0).model, before, after):
        assert one.after == one.before == one.by_place
        assert one.predicted < 0.5 * one.before


# The circuit of a label ----------------------------------------------------------------------------------------------


@fewer(0.25)
@given(seeds)
def test_the_finder_says_what_a_slow_loop_over_tokens_finds(seed):
    counter = drawn(seed)
    found = string_batch(TASK, TASK.sample(stream(seed), 24, length=14))
    rows = found.tokens.tolist()
    every = [n for counts in found.counts.tolist() for n in counts]
    floor = max(every.count(n) for n in every) / len(every)
    assert circuits.constant_accuracy(found) == pytest.approx(floor)
    for label, circuit in enumerate(circuits.find_circuits(counter.model, found)):
        counts = found.counts[:, label].tolist()
        kinds = [classes(row, label + 1) for row in rows]

        def right(*hidden: str, label=label, counts=counts, kinds=kinds) -> float:
            blocked = [frozenset(at for at, name in enumerate(kind) if name in hidden) for kind in kinds]
            answers = [counter.answer(row, label, gone) for row, gone in zip(rows, blocked, strict=True)]
            return mean(a == n for a, n in zip(answers, counts, strict=True))

        masses = {name: [0.0] * len(rows) for name in CLASSES}
        for row, (tokens, kind) in enumerate(zip(rows, kinds, strict=True)):
            for name, weight in zip(kind, counter.attention(tokens, label), strict=True):
                masses[name][row] += weight
        rest = sum(mean(masses[name]) for name in BY_CLASS)
        held = {name for row in rows for other in (1, 2) for name in classes(row, other)}
        lost = {name: right(name) for name in held}
        lost |= {
            "own brackets": right("own [", "own ]"),
            "all ones": right("counted ones", "other regions' ones", "outside ones"),
        }
        if circuit.bias != "mixed":
            lost["the bias"] = right(circuit.bias)
        fit = fit_saturation(torch.tensor(masses[COUNTED]).double(), torch.tensor(counts))
        assert circuit.accuracy == pytest.approx(right())
        assert circuit.shares == pytest.approx({name: mean(masses[name]) / rest for name in BY_CLASS})
        assert circuit.share == max(circuit.shares.values())
        assert circuit.bias == (circuit.largest if circuit.share >= 0.7 else "mixed")
        assert circuit.blocked == pytest.approx(lost)
        assert (circuit.k, circuit.r2) == pytest.approx((fit.k, max(fit.r2, 0)), rel=1e-3)
        tests = {"counted": lost[COUNTED], "own brackets": lost["own brackets"], "outside ones": lost["outside ones"]}
        assert circuit.circuit == name_circuit(right(), tests, floor, slack=SLACK)
        assert circuit.curve == {
            n: pytest.approx(mean(m for m, c in zip(masses[COUNTED], counts, strict=True) if c == n))
            for n in sorted(set(counts))
            if counts.count(n) >= 5
        }


def copier() -> Counter:
    """It finds the count that stands at the closing bracket of its region."""
    weights = np.full((2, 7, 5), 1e-6)
    for label in range(2):
        weights[label, 2 * label + 2, 3] = 1.0
    return Counter(weights, half=1.0, kind="copy")


def complement() -> Counter:
    """It counts the ones outside its one region against the begin token, and subtracts."""
    weights = np.zeros((1, 7, 5))
    weights[:, [0, 2], 1], weights[:, 0, 4] = 1.0, 1.0
    return Counter(weights, half=1.0, counts=11, kind="complement", total=10)


@pytest.mark.parametrize(
    ("circuit", "bias", "counter"),
    [
        ("counter", "zeros", Counter(table(2, zeros=0.5), half=3.0)),
        ("counter", "begin", Counter(table(2, begin=5.0), half=5.0)),
        ("counter", "later brackets", Counter(table(2, opened=1.0, begin=2.0), half=4.0)),
        ("copy", "own ]", copier()),
        ("complement", "outside ones", complement()),
    ],
)
def test_the_circuit_that_was_planted_is_named_with_its_bias(circuit, bias, counter):
    task = replace(TASK, regions=len(counter.weights))
    found = string_batch(task, balanced(task, 80, zeros=6, ones=10))
    first = circuits.find_circuits(counter.model, found)[0]
    assert first.accuracy == 1
    assert first.circuit == circuit
    for absent in ("other regions' ones", "earlier brackets", "later brackets"):  # where there is one region alone
        assert (absent in first.blocked) == (task.regions == 2)
    if bias == "later brackets":  # two brackets and the begin token: nothing has most of it
        assert first.bias == "mixed"
        assert "the bias" not in first.blocked
        assert first.largest == "begin"
    else:
        assert first.bias == bias
        assert first.blocked["the bias"] == first.blocked[bias] <= circuits.constant_accuracy(found) + SLACK


def test_a_mass_is_shown_for_a_count_of_five_strings_and_not_of_four():
    texts = ["[1]00" + "10" * 5] * 5 + ["[11]0" + "10" * 5] * 4 + ["[111]" + "10" * 5] * 6
    task = replace(TASK, regions=1)
    found = circuits.find_circuits(Counter(table(1, begin=4.0), half=4.0).model, laid_out(task, *texts))[0]
    assert found.curve == {1: pytest.approx(1 / 5), 3: pytest.approx(3 / 7)}


# Equation 3 ----------------------------------------------------------------------------------------------------------


@fewer(0.25)
@given(seeds, st.sampled_from([0.5, 3.0]))
def test_logits_are_rebuilt_from_the_mean_value_of_each_class(seed, scale):
    counter = drawn(seed, scale)
    with torch.no_grad():
        counter.model.decoder.head.bias.copy_(torch.linspace(0, 0.3, counter.counts))
    found = string_batch(TASK, TASK.sample(stream(seed), 6, length=13))
    rows, logits = found.tokens.tolist(), counter.model(found.tokens).detach()
    named = circuits.find_circuits(counter.model, found)
    told = np.linspace(0, 0.3, counter.counts)
    for label, one in enumerate(circuits.value_readout(counter.model, found, named)):
        values, masses = {}, [{} for _ in rows]
        for row, tokens in enumerate(rows):
            place = 0
            kind, weights = classes(tokens, label + 1), counter.attention(tokens, label)
            for token, name, weight in zip(tokens, kind, weights, strict=True):
                place += token in (2, 3)
                values.setdefault(name, []).append(counter.values[:, 5 * place + token])
                masses[row][name] = masses[row].get(name, 0.0) + weight
        every = {"two_values": [COUNTED, named[label].largest], "all_classes": list(values)}
        for which, used in every.items():
            used = [name for name in used if name in values]
            gaps, same = [], []
            for row, mass in enumerate(masses):
                total = sum(mass.get(name, 0.0) for name in used) or 1.0
                rebuilt = told + sum(mass.get(name, 0.0) / total * np.mean(values[name], axis=0) for name in used)
                p, q = logits[row, label].log_softmax(0), torch.from_numpy(rebuilt).log_softmax(0)
                gaps.append((p.exp() * (p - q)).sum().item())
                same.append(p.argmax().item() == q.argmax().item())
            readout = getattr(one, which)
            assert readout.kl == pytest.approx(mean(gaps), abs=1e-6)
            assert readout.agreement == pytest.approx(mean(same))
