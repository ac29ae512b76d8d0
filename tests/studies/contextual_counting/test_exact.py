"""Laws of the properties that are decided on all inputs: on handwritten counters, and by plain loops over strings."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from tests.studies.contextual_counting.planted import Counter, classes, laid_out, table
from toylab.model.encoder_decoder import ENCODER, EncoderDecoderConfig
from toylab.planted.handwritten import contextual_counter
from toylab.probes import edit
from toylab.proofs.exact import on_all_inputs
from toylab.studies.contextual_counting import exact
from toylab.studies.contextual_counting.data import counting_model
from toylab.studies.contextual_counting.exact import OneFewer, OwnOnes, SameAnswers
from toylab.tasks import ContextualCounting, encode
from toylab.tasks.bracketed import ONE

TASK = ContextualCounting(length=(10, 20), regions=(1, 3))
DECIDED = ("bracketings", "short", "own_ones", "own_ones_untrained", "one_fewer", "other_hidden", "permuted")


def model_of(seed: int, positions: str = "none", causal: bool = True):
    """Random weights, sharpened so that answers differ."""
    slope = 0.5 if positions == "alibi" else None
    encoder = {"width": 8, "positions": positions, "causal": causal, "alibi_slope": slope}
    model = counting_model(TASK, EncoderDecoderConfig(encoder=replace(ENCODER, **encoder)), seed)
    with torch.no_grad():
        model.decoder.queries *= 20
        model.encoder.blocks[0].attn.query.weight *= 20
    return model


def strings_of(task: ContextualCounting, length: int) -> set[str]:
    """All strings of a length with so many regions, by trying all words."""
    found = set()
    for symbols in itertools.product("01[]" if 0 < task.p < 1 else "1[]", repeat=length):
        word, inside, regions = "".join(symbols), False, 0
        for symbol in word:
            if symbol in "[]" and (symbol == "[") == inside:
                break
            inside = {"[": True, "]": False}.get(symbol, inside)
            regions += symbol == "["
        else:
            if not inside and task.fewest <= regions <= task.most:
                found.add(word)
    return found


def test_the_families_are_all_strings_of_ones_and_all_short_ones():
    ones, lengths = exact.bracketings_of_ones(TASK)
    assert lengths == (10,)
    assert ones.count(10) == len(strings_of(ones, 10)) == math.comb(10, 2) + math.comb(10, 4)
    short, lengths = exact.short_strings(TASK)
    assert list(lengths) == list(range(2, 10))
    assert [short.count(n) for n in range(2, 7)] == [len(strings_of(short, n)) for n in range(2, 7)]
    long = ContextualCounting(length=(40, 64))
    assert exact.bracketings_of_ones(long)[1] == (24,)
    assert not exact.trains_on_bracketings(long)
    assert exact.trains_on_bracketings(ContextualCounting(length=(24, 30), regions=(1, 2)))
    assert not exact.trains_on_bracketings(ContextualCounting(length=(24, 30), regions=(2, 4)))


@pytest.mark.parametrize("bias", ["begin", "bracket"])
def test_a_handwritten_counter_has_every_property_of_the_circuit_on_all_inputs(bias, monkeypatch):
    monkeypatch.setattr(exact, "SHORT", range(2, 8))
    model = contextual_counter(3, 21, bias=bias)
    found = exact.decide_on_all("none", TASK, model, 0)
    for name in ("bracketings", "short", "own_ones", "one_fewer"):
        decided = getattr(found, name)
        assert (decided.share, decided.counterexample) == (1, None), name
    for name in ("own_ones_untrained", "other_hidden", "permuted"):
        assert getattr(found, name).share < 0.6, name


def test_each_condition_is_asked_what_its_claims_need(monkeypatch):
    monkeypatch.setattr(exact, "SHORT", (4,))
    asked = {
        name: {field for field, value in vars(decided).items() if value}
        for name in ("none", "none-bidirectional", "rotary", "rotary-bidirectional", "alibi", "alibi-bidirectional")
        if (decided := exact.decide_on_all(name, TASK, model_of(0, name.split("-")[0], "-" not in name), 0))
    }
    assert asked.pop("none") == set(DECIDED)
    assert asked.pop("none-bidirectional") == {"bracketings", "short", "permuted"}
    assert asked.pop("rotary") == {"bracketings", "mirrored"}
    assert list(asked.values()) == [{"mirrored"}] * 3
    assert exact.decide_on_all("learned", TASK, model_of(0), 0) is None


@pytest.mark.parametrize(
    ("positions", "causal", "permuted", "mirrored"),
    [
        ("none", False, True, True),
        ("none", True, False, False),
        ("alibi", False, False, True),
        ("rotary", False, False, False),
    ],
)
def test_answers_are_the_same_where_an_encoder_has_no_order_or_no_direction(positions, causal, permuted, mirrored):
    short, _ = exact.short_strings(TASK)
    model = model_of(3, positions, causal)
    for order, same in (("sorted", permuted), ("mirrored", mirrored)):
        decided = on_all_inputs(model, short, SameAnswers(task=short, order=order), (5,))
        assert (decided.share == 1) == same, order


# String by string ----------------------------------------------------------------------------------------------------

PLANTED = Counter(np.maximum(table(3, begin=4.0), 0.19 * (np.arange(5) == ONE)), half=4.38)
"""It counts right where two ones are not counted."""
WORDS = ("1[11]0[1]11", "[1]1[1][01]", "[1111111]11", "0[]0000[0]0", "[11]11[1][]", "1111111[1]1")
BATCH = TASK.batch(np.array([encode(TASK, list(word)) for word in WORDS]), np.full(len(WORDS), len(WORDS[0])))


def outcome(property):
    strings = laid_out(TASK, *WORDS)
    with torch.inference_mode():
        return strings, property(PLANTED.model, BATCH)


@pytest.mark.parametrize("counted", [True, False])
def test_one_fewer_is_the_answer_without_the_first_such_one(counted):
    strings, found = outcome(OneFewer(task=TASK, counted=counted))
    fewer_held = []
    for row, tokens in enumerate(strings.tokens.tolist()):
        margins = [math.inf]
        for label in range(3):
            kinds = classes(tokens, label + 1)
            wanted = ("counted ones",) if counted else ("outside ones", "other regions' ones")
            such = [at for at, kind in enumerate(kinds) if kind in wanted]
            decided = found.decisions[row, [label, 3 + label]].tolist()
            if not such or label >= WORDS[row].count("["):
                assert decided == [-1, -1]
                continue
            hidden = frozenset(such[:1])
            assert decided == [PLANTED.answer(tokens, label), PLANTED.answer(tokens, label, hidden)]
            fewer_held.append(decided[1] == decided[0] - 1)
            assert found.fulfilled[row, label] == found.fulfilled[row, 3 + label] == fewer_held[-1]
            for logits in (PLANTED.logits(tokens, label), PLANTED.logits(tokens, label, hidden)):
                second, first = sorted(logits)[-2:]
                margins.append(first - second)
        assert found.margins[row] == pytest.approx(min(margins))
    assert counted in fewer_held


def test_own_ones_have_more_attention_than_all_others():
    strings, found = outcome(OwnOnes(task=TASK))
    for row, tokens in enumerate(strings.tokens.tolist()):
        leads = [math.inf]
        for label in range(3):
            kinds, attention = classes(tokens, label + 1), PLANTED.attention(tokens, label)
            own = sum(a for a, kind in zip(attention, kinds, strict=True) if kind == "counted ones")
            every = sum(a for a, token in zip(attention, tokens, strict=True) if token == 1)
            if not own:
                assert found.decisions[row, label] == -1
                continue
            assert found.decisions[row, label] == (own / every > 0.5)
            leads.append(abs(own / every - 0.5))
        assert found.margins[row] == pytest.approx(min(leads))
    assert {-1, 0, 1} == {*found.decisions.flatten().tolist()}


def test_without_attention_on_ones_no_region_has_more_and_the_margin_is_zero():
    with edit(PLANTED.model, {"decoder.cross.pattern": torch.zeros_like}):
        _, found = outcome(OwnOnes(task=TASK))
    assert {*found.decisions.flatten().tolist()} == {-1, 0}
    asked = (found.decisions == 0).any(axis=1)
    assert asked.any()
    assert (found.margins == np.where(asked, 0, np.inf)).all()


@fewer(0.2)
@given(st.integers(0, 2**31), st.sampled_from(["none", "rotary"]), st.booleans())
def test_answers_are_compared_with_those_for_the_rearranged_tokens(seed, positions, causal):
    model = model_of(seed, positions, causal)
    strings = laid_out(TASK, *WORDS)
    for order in ("sorted", "mirrored"):
        with torch.inference_mode():
            found = SameAnswers(task=TASK, order=order)(model, BATCH)
        for row, tokens in enumerate(strings.tokens.tolist()):
            other = tokens[::-1] if order == "mirrored" else tokens[:1] + sorted(tokens[1:])
            answers = [model(torch.tensor([one])).argmax(dim=-1)[0].tolist() for one in (tokens, other)]
            number = WORDS[row].count("[")
            expected = [[one if label < number else -1 for label, one in enumerate(told)] for told in answers]
            assert found.decisions[row].tolist() == expected[0] + expected[1]
            assert found.fulfilled[row].tolist() == [a == b for a, b in zip(*expected, strict=True)] * 2
