"""Laws of settings: every field of every settings class is checked, and options and seeds are what they say."""

import hashlib
import importlib
import inspect
import json
import math
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.modules import module_names
from tests.settings_classes import SETTINGS, STUDIES, hints, made, words
from toylab import tasks
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoderConfig
from toylab.model.steering import Scaled
from toylab.planted.handwritten import contextual_counter
from toylab.probes import Tap
from toylab.runs.table import load_runs
from toylab.settings import (
    as_json,
    check_option,
    check_range,
    check_seed,
    check_seeds,
    check_settings,
    convert_value,
    torch_seed,
)
from toylab.tasks import ConceptGrammar, Parity
from toylab.training.loop import TrainConfig

ROOT = Path(__file__).parents[1]
INNER = {"Claim", "Decision", "Judgement", "Condition", "LivePanel", "TaskPanel", "ExactBehaviour", "SameAnswers"}
"""Classes with words that code alone fills in."""


def leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple) else [value]


def mapped(change: Any, value: Any) -> Any:
    """A value with every number in it changed."""
    if isinstance(value, tuple):
        return tuple(mapped(change, item) for item in value)
    return change(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


# Which classes -------------------------------------------------------------------------------------------------------


def all_dataclasses() -> set[type]:
    found = set()
    for name in module_names():
        if name != "toylab.bench.peers":
            held = vars(importlib.import_module(name)).values()
            found |= {one for one in held if isinstance(one, type) and is_dataclass(one)}
    return {one for one in found if one.__module__.split(".")[0] == "toylab"}


def test_every_class_with_options_and_every_class_inside_a_study_is_tried_here():
    with_words = {one for one in all_dataclasses() if any(words(hint) for hint in hints(one).values())}
    inside = {type(getattr(study(), name)) for study in STUDIES for name in hints(study)}
    wanted = with_words | {one for one in inside if is_dataclass(one)}
    found = {one.__name__ for one in wanted} - {one.__name__ for one in SETTINGS} - INNER
    assert found == {"IteratedMap", "_NumbersBelow", "Settings", "Tap", "TaskTraining"}


# One field at a time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_word_that_is_no_option_is_refused_by_name(kind):
    for name, hint in hints(kind).items():
        for option in words(hint):
            wrong = option[:-1] + "_" if isinstance(option, str) else float(option)
            value = (wrong,) if isinstance(getattr(kind(), name), tuple) else wrong
            with pytest.raises(ToylabError, match=name):
                made(kind, **{name: value})
        if hint is bool:
            for wrong in (1, "no", None):
                with pytest.raises(ToylabError, match=rf"^{name}={wrong!r}: must be True or False"):
                    made(kind, **{name: wrong})


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_number_that_is_not_finite_is_refused_by_name(kind):
    for name in hints(kind):
        value = getattr(kind(), name)
        for number in (math.nan, math.inf, -math.inf, np.float32(math.nan), torch.tensor(math.nan)):
            with pytest.raises(ToylabError, match=rf"^{name}=-?(nan|inf): must be a finite number"):
                made(kind, **{name: number})
            if isinstance(value, tuple) and value:
                with pytest.raises(ToylabError, match=rf"^{name}\[0\]=-?(nan|inf): must be a finite number"):
                    made(kind, **{name: (number,) * len(value)})


@pytest.mark.parametrize("kind", SETTINGS)
def test_what_numpy_and_torch_hold_and_lists_are_the_same_settings(kind):
    default = kind()
    exact = lambda x: torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else None)  # noqa: E731
    for name in hints(kind):
        value = getattr(default, name)
        array = np.array(value)
        forms = [mapped(lambda x: np.array(x)[()], value), mapped(exact, value)]
        forms += [list(value), array] if isinstance(value, tuple) and array.dtype != object else []
        forms += [np.str_(value)] if isinstance(value, str) else [np.bool_(value)] if isinstance(value, bool) else []
        for form in forms:
            other = made(kind, **{name: form})
            assert (other, hash(other)) == (default, hash(default))
            assert {type(leaf) for leaf in leaves(getattr(other, name))} == {type(leaf) for leaf in leaves(value)}, name
            assert json.loads(json.dumps(asdict(other))) == json.loads(json.dumps(as_json(other, "settings", kind)))


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_value_of_another_type_is_refused_by_name(kind):
    for name, hint in hints(kind).items():
        for wrong in (object(), {"a": 1}, b"", [[[]]]):
            with pytest.raises(ToylabError, match=name):
                made(kind, **{name: wrong})
        if int in (hint, *get_args(hint)):
            with pytest.raises(ToylabError, match=rf"^{name}(\[0\])?=True: must be "):
                made(kind, **{name: (True,) if get_args(hint)[-1:] == (Ellipsis,) else True})


def test_a_tap_names_its_mistakes():
    for wrong in ({"part": "outptu"}, {"part": 1.5}, {"columns": (1, 2, 3)}, {"heads": True}):
        with pytest.raises(ToylabError, match=next(iter(wrong))):
            made(Tap, module="m", **wrong)
    assert made(Tap, module="m", part=np.int64(1), columns=[0, np.int64(4)]) == Tap("m", 1, (0, 4))


RANGES = [
    (ModelConfig, {"position_base": -1.0}),
    (ModelConfig, {"position_base": 0.0}),
    *((ModelConfig, {name: -0.5}) for name in ("position_frequency", "position_std", "alibi_slope", "embedding_std")),
    (EncoderDecoderConfig, {"query_std": -0.1}),
    (TrainConfig, {"weight_decay": -0.1}),
    *((TrainConfig, {"betas": betas}) for betas in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, 2.0))),
    (ConceptGrammar, {"seed": -1}),
]


@pytest.mark.parametrize(("kind", "wrong"), RANGES, ids=str)
def test_a_number_outside_of_its_range_is_refused_by_name(kind, wrong):
    with pytest.raises(ToylabError, match=rf"^{next(iter(wrong))}="):
        kind(**wrong)


# Seeds and options ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**200))
def test_seeds_that_agree_in_their_low_bits_differ_and_small_ones_stay(seed, high):
    assert torch_seed(seed) == seed
    assert torch_seed(np.uint32(seed)) == seed
    assert len({torch_seed(seed, purpose) for purpose in ("", "one", "another")}) == 3
    larger = seed + (high << 32)
    assert torch_seed(larger) == int(hashlib.sha256(str(larger).encode()).hexdigest()[:8], 16) < 2**32
    drawn = [torch.randn(4, generator=torch.Generator().manual_seed(torch_seed(one))) for one in (seed, larger)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("wrong", [-1, True, 1.0, "1", None, np.int64(-3), np.bool_(True), math.nan])
def test_what_is_no_seed_is_refused_by_name(wrong):
    for call in (check_seed, torch_seed):
        with pytest.raises(ToylabError, match=r"^seed="):
            call(wrong)
    with pytest.raises(ToylabError, match=r"^seeds"):
        check_seeds((0, wrong))
    with pytest.raises(ToylabError, match=r"^seed="):
        inspect.unwrap(tasks.stream)(wrong, "data")


@pytest.mark.parametrize("wrong", [(), [], 3, "12", (1, 1), (np.int64(1), 1)])
def test_seeds_of_a_study_are_some_and_all_different(wrong):
    with pytest.raises(ToylabError, match=r"^seeds"):
        check_seeds(wrong)
    assert check_seeds(range(3)) == check_seeds(np.arange(3)) == check_seeds([0, 1, 2]) == (0, 1, 2)


@pytest.mark.parametrize(("name", "wrong"), [("seed", -1), ("seeds", ()), ("seeds", (2, 2)), ("seeds", (0, -1))])
def test_a_field_for_seeds_holds_seeds_in_every_class_and_in_classes_within(name, wrong):
    kind = make_dataclass("Sown", [("seed", int, 0), ("seeds", tuple[int, ...], (0,))], frozen=True)
    outer = make_dataclass("Field", [("inner", kind)], frozen=True)
    check_settings(outer(kind()))
    for settings, prefix in ((kind(**{name: wrong}), ""), (outer(kind(**{name: wrong})), "inner.")):
        with pytest.raises(ToylabError, match=rf"^{re.escape(f'{prefix}{name}={wrong}')}: "):
            check_settings(settings)


BOUNDS = st.none() | st.integers(-3, 3)


@given(BOUNDS, BOUNDS, BOUNDS, BOUNDS, st.lists(st.integers(-4, 4) | st.just(math.nan) | st.none(), max_size=3))
def test_numbers_of_a_range_pass_and_the_first_other_is_named_with_rule_and_remedy(least, above, most, below, numbers):
    def fits(number: float | None) -> bool:
        if number is None or {least, above, most, below} == {None}:
            return True
        spans = [least is not None and number in range(least, 9), above is not None and number in range(above + 1, 9)]
        spans += [most is not None and number in range(-9, most + 1), below is not None and number in range(-9, below)]
        return sum(spans) == sum(bound is not None for bound in (least, above, most, below))

    named = {f"x{i}": number for i, number in enumerate(numbers)}
    wrong = [name for name, number in named.items() if not fits(number)]
    bounds = {"least": least, "above": above, "most": most, "below": below}
    if not wrong:
        check_range("give more", **named, **bounds)
        check_range(every=numbers, **bounds)
        return
    words = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
    rule = " and ".join(f"{words[name]} {bound}" for name, bound in bounds.items() if bound is not None)
    with pytest.raises(ToylabError, match=rf"^{wrong[0]}={named[wrong[0]]}: must be {rule}; give more$"):
        check_range("give more", **named, **bounds)
    with pytest.raises(ToylabError, match=rf"^every=.*: must be {rule}$"):
        check_range(every=tuple(numbers), **bounds)


@given(st.sampled_from([2, "a", "train"]), st.sampled_from([(2, "a"), ("train", "test")]))
def test_an_option_is_one_of_the_words_and_of_their_type(value, options):
    if value in options:
        check_option("x", value, options)
        return
    with pytest.raises(ToylabError, match="x"):
        check_option("x", value, options)


def test_annotations_that_cannot_be_read_are_left_alone():
    @dataclass
    class Own:
        path: "Nowhere"  # noqa: F821  that is the point
        rate: float = 0.5

    own = Own(path=[1, {}], rate=np.float32(0.5))
    check_settings(own)
    assert (own.path, type(own.rate)) == ([1, {}], float)
    with pytest.raises(ToylabError, match=r"^rate=nan"):
        check_settings(Own(path=None, rate=math.nan))


def test_a_default_may_be_outside_of_its_own_annotation():
    @dataclass
    class Own:
        limit: int = None

    assert convert_value(Own, Own(), "x").limit is None
    with pytest.raises(ToylabError, match=r"^limit='a'"):
        check_settings(Own(limit="a"))


OPTIONS = {
    "Parity.sample(split)": lambda: untyped(Parity.sample)(Parity(), tasks.stream(0), 1, "tset"),
    "Parity.sample(no rows)": lambda: untyped(Parity.sample)(Parity(), tasks.stream(0), 0, "tset"),
    "Parity.capacity(split)": lambda: untyped(Parity.capacity)(Parity(), 3, "tset"),
    "ContextualCounting.sample(split)": lambda: untyped(COUNTING.sample)(COUNTING(), tasks.stream(0), 0, "tset"),
    "AssociativeRecall.sample(split)": lambda: untyped(RECALL.sample)(RECALL(), tasks.stream(0), 0, "tset"),
    "TaskConcept.sample(split)": lambda: untyped(CONCEPT.sample)(CONCEPT(), tasks.stream(0), 0, "tset"),
    "TaskConcept.sample(kind)": lambda: untyped(CONCEPT._check)(CONCEPT(), "sfae", 0.5),
    "TaskConcept.of_class": lambda: CONCEPT().of_class("X"),
    "Reasoning.prompts(split)": lambda: untyped(REASONING.prompts)(REASONING(), tasks.stream(0), 0, "tset"),
    "load_runs(rows)": lambda: untyped(load_runs)("runs", rows="job"),
    "Scaled(gate)": lambda: untyped(Scaled.__init__)(object.__new__(Scaled), 8, gate="sigmoid"),
    "contextual_counter(bias)": lambda: untyped(contextual_counter)(2, 5, bias="bgein"),
}
COUNTING, RECALL = tasks.ContextualCounting, tasks.AssociativeRecall
CONCEPT, REASONING = tasks.TaskConcept, tasks.Reasoning
untyped = inspect.unwrap
"""A function without the run-time type checks of the tests, which would come first."""


@pytest.mark.parametrize("call", OPTIONS.values(), ids=OPTIONS)
def test_a_word_that_is_no_option_of_a_function_is_refused_by_name(call):
    with pytest.raises(ToylabError, match=r"there is no \w+"):
        call()


INTEGERS = """
import numpy as np, torch, tempfile
from pathlib import Path
import tasks, toylab, probes
from toylab.training import evaluate
from toylab.model import lora as low_rank
from toylab.model import checkpoint
from toylab.model import steering
from toylab.model.generate import generate
from toylab.survey import train_on_task

def weights(model):
    return [parameter.tolist() for parameter in model.parameters()]

def saved(model):
    path = Path(tempfile.mkdtemp()) / "model.safetensors"
    checkpoint.save_model(path, model)
    return weights(checkpoint.load_model(path))

def steered(at):
    path = Path(tempfile.mkdtemp()) / "vectors.safetensors"
    steering.save_steering(path, steering.Steered(MODEL, {i(1): steering.Vector(i(32))}, at=at))
    return str(steering.load_steering(path, MODEL).at)

def table(batch):
    return batch.tokens.tolist(), batch.targets.tolist()

MODEL = toylab.Transformer(toylab.ModelConfig(), 5, 8)
TOKENS = torch.arange(8).view(2, 4) % 5
Z = torch.rand(2, 4, 2, 16, generator=torch.Generator().manual_seed(0))
PATTERN = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
LINKS = np.array([[0, 2, 1]])
CALLS = [
    lambda: saved(toylab.Transformer(toylab.ModelConfig(width=i(16)), i(5), i(8), i(3))),
    lambda: weights(toylab.Transformer.for_task(tasks.Parity(), seed=i(1))),
    lambda: generate(MODEL, TOKENS, i(3), stop=i(2), samples=i(2), drop=True).tolist(),
    lambda: [table(task().sample(tasks.stream(i(3), "a", i(2)), i(5))) for task in tasks.TASKS],
    lambda: table(tasks.Polynomial(p=i(11)).sample(tasks.stream(0), i(3), length=i(70))),
    lambda: tasks.Polynomial().capacity(i(70), "train"),
    lambda: table(tasks.ContextualCounting(length=(i(9), i(12)), regions=i(2)).sample(tasks.stream(0), 3, length=i(9))),
    lambda: tasks.ContextualCounting(length=(i(9), i(60)), regions=i(2)).entropy,
    lambda: [table(one) for one in evaluate.by_length(tasks.Parity(), i(0), [i(4), i(5)], i(1)).values()],
    lambda: weights(low_rank.add_lora(toylab.Transformer(toylab.ModelConfig(), 5, 8), i(2), i(1))),
    lambda: [steered((i(2),)), steered(slice(i(2), i(3)))],
    lambda: probes.zero_heads(i(1), [i(0)])(Z).tolist(),
    lambda: probes.uniform_heads(i(1), [i(0)])(PATTERN).tolist(),
    lambda: probes.follow_links(i(1), LINKS)(PATTERN).tolist(),
    lambda: weights(probes.fit_autoencoder(Z.flatten(0, 2), i(6), i(2), i(3), i(4), seed=i(1))),
    lambda: probes.compare_features(PATTERN.flatten(0, 2) > .5, torch.arange(16) % 2 > 0, seed=i(1)),
]
for number, call in enumerate(CALLS):
    i = int
    plain = call()
    i = np.int64
    assert call() == plain, number
"""


@pytest.mark.slow
def test_integers_of_numpy_serve_wherever_integers_do():
    done = subprocess.run([sys.executable, "-c", INTEGERS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
