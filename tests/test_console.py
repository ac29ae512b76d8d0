"""Laws of settings: every field of every settings class is checked, and comes back from JSON as it was."""

import copy
import hashlib
import importlib
import inspect
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
import tyro
from hypothesis import given
from hypothesis import strategies as st

from tests.modules import module_names
from toylab import tasks
from toylab.console import SYNONYMS, ToylabError, unknown
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoderConfig
from toylab.model.positions import POSITIONS
from toylab.model.steering import Scaled
from toylab.planted.handwritten import contextual_counter
from toylab.probes import Tap
from toylab.runs import registry
from toylab.runs.judge import flags, rebuild
from toylab.runs.registry import load_class
from toylab.runs.table import load_runs
from toylab.settings import as_json, check_option, check_seed, check_seeds, check_settings, fit, torch_seed
from toylab.tasks import ConceptGrammar, Copy, IteratedMap, ModularSum, Parity, Polynomial, Styles, Task, WordProblem
from toylab.tasks.strategies import instances
from toylab.training.loop import TrainConfig
from toylab.training.losses import Unlearning

ROOT = Path(__file__).parents[1]
STUDIES = [registry.load(name).STUDY for name in registry.study_names()]
SETTINGS = [*tasks.TASKS, ConceptGrammar, Styles, ModelConfig, EncoderDecoderConfig, TrainConfig, Unlearning, *STUDIES]
INNER = {"Claim", "Arm"}
"""Classes with words that code alone fills in."""


def made(kind: type, **changes: Any) -> Any:
    """An object of settings made without the run-time type checks of the tests, which would come first."""
    settings = object.__new__(kind)
    inspect.unwrap(kind.__init__)(settings, **changes)
    return settings


def hints(kind: type) -> dict[str, Any]:
    return {one.name: get_type_hints(kind)[one.name] for one in fields(kind)}


def words(hint: Any) -> list[Any]:
    """All words that an annotation allows, also inside tuples and unions."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for part in get_args(hint) for word in words(part)]


def leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple) else [value]


def mapped(change: Any, value: Any) -> Any:
    """A value with every number in it changed."""
    if isinstance(value, tuple):
        return tuple(mapped(change, item) for item in value)
    return change(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


FIELDS = [(kind, name) for kind in SETTINGS for name in hints(kind)]


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
    assert found == {"IteratedMap", "Settings", "Tap"}


# One field at a time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_word_that_is_no_option_is_refused_by_name(kind, name):
    options = words(hints(kind)[name])
    for option in options:
        wrong = option[:-1] + "_" if isinstance(option, str) else float(option)
        value = (wrong,) if isinstance(getattr(kind(), name), tuple) else wrong
        with pytest.raises(ToylabError, match=name):
            made(kind, **{name: value})
    if hints(kind)[name] is bool:
        for wrong in (1, "no", None):
            with pytest.raises(ToylabError, match=rf"^{name}={wrong!r}: must be True or False"):
                made(kind, **{name: wrong})


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_number_that_is_not_finite_is_refused_by_name(kind, name):
    value = getattr(kind(), name)
    for number in (math.nan, math.inf, -math.inf, np.float32(math.nan), torch.tensor(math.nan)):
        with pytest.raises(ToylabError, match=rf"^{name}=-?(nan|inf): must be a finite number"):
            made(kind, **{name: number})
        if isinstance(value, tuple):
            with pytest.raises(ToylabError, match=rf"^{name}\[0\]=-?(nan|inf): must be a finite number"):
                made(kind, **{name: (number,) * len(value)})


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_what_numpy_and_torch_hold_and_lists_are_the_same_settings(kind, name):
    default = kind()
    value = getattr(default, name)
    array = np.array(value)
    exact = lambda x: torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else None)  # noqa: E731
    forms = [mapped(lambda x: np.array(x)[()], value), mapped(exact, value)]
    forms += [list(value), array] if isinstance(value, tuple) and array.dtype != object else []
    forms += [np.str_(value)] if isinstance(value, str) else [np.bool_(value)] if isinstance(value, bool) else []
    for form in forms:
        other = made(kind, **{name: form})
        assert (other, hash(other)) == (default, hash(default))
        assert {type(leaf) for leaf in leaves(getattr(other, name))} == {type(leaf) for leaf in leaves(value)}
        assert json.loads(json.dumps(asdict(other))) == json.loads(json.dumps(as_json(other, "settings", kind)))


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_value_of_another_type_is_refused_by_name(kind, name):
    for wrong in (object(), {"a": 1}, b"", [[[]]]):
        with pytest.raises(ToylabError, match=name):
            made(kind, **{name: wrong})
    if int in (hints(kind)[name], *get_args(hints(kind)[name])):
        with pytest.raises(ToylabError, match=rf"^{name}(\[0\])?=True: must be "):
            made(kind, **{name: (True,) if get_args(hints(kind)[name])[-1:] == (Ellipsis,) else True})


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


# Through JSON --------------------------------------------------------------------------------------------------------


def back(settings: Any, default: Any = None) -> Any:
    told = json.dumps(as_json(settings, "settings", type(settings)))
    return rebuild(settings if default is None else default, json.loads(told))


@dataclass(frozen=True, kw_only=True)
class Deep:
    """Settings inside settings, with a choice."""

    inner: Copy | ModularSum = Copy()
    rate: float | int = 1


@dataclass(frozen=True, kw_only=True)
class Wide:
    """One field of every form that settings may have."""

    choice: Parity | Polynomial = Parity()
    twins: Copy | ModularSum = Copy()
    maybe: Parity | None = None
    any_map: IteratedMap = WordProblem()
    any_task: Task = Parity()
    deep: Deep = Deep()
    several: tuple[Copy | ModularSum, ...] = (ModularSum(), Copy(p=3))
    pairs: tuple[tuple[int, int], ...] = ((1, 2), (3, 4))
    mixed: tuple[int, str] | int = (1, "a")
    by_number: dict[int, float] = field(default_factory=lambda: {1: 0.5})
    by_name: dict[str, tuple[int, ...]] = field(default_factory=dict)
    listed: list[int] = field(default_factory=list)
    words: tuple[Literal["a", "b"], ...] = ("a",)
    note: str = ""

    def __post_init__(self) -> None:
        check_settings(self)


MAPS = st.one_of(*(instances(kind) for kind in (Copy, ModularSum, Parity, Polynomial, WordProblem)))
TWINS = instances(Copy) | instances(ModularSum)
WIDE = st.builds(
    Wide,
    choice=instances(Parity) | instances(Polynomial),
    twins=TWINS,
    maybe=st.none() | instances(Parity),
    any_map=MAPS,
    deep=st.builds(Deep, inner=TWINS, rate=st.integers(1, 4) | st.floats(0, 2)),
    several=st.lists(TWINS, max_size=3).map(tuple),
    pairs=st.lists(st.tuples(st.integers(), st.integers()), min_size=1, max_size=3).map(tuple),
    mixed=st.integers() | st.tuples(st.integers(), st.text()),
    by_number=st.dictionaries(st.integers(), st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    by_name=st.dictionaries(st.text(), st.lists(st.integers(), max_size=2).map(tuple), max_size=2),
    listed=st.lists(st.integers(), max_size=2),
    words=st.lists(st.sampled_from("ab"), max_size=3).map(tuple),
    note=st.text(),
)


@given(WIDE)
def test_settings_of_every_form_come_back_from_json(settings):
    assert back(settings, Wide()) == settings
    assert [type(one) for one in back(settings).several] == [type(one) for one in settings.several]


@pytest.mark.parametrize("kind", SETTINGS)
def test_all_settings_come_back_from_json_written_by_either_way(kind):
    assert back(kind()) == kind() == rebuild(kind(), json.loads(json.dumps(asdict(kind()))))


@given(st.sampled_from(tasks.TASKS).flatmap(instances))
def test_every_task_comes_back_from_json(task):
    assert back(task, type(task)()) == task


def test_classes_are_told_apart_by_their_fields_where_json_does_not_name_them():
    for choice in (Parity(lengths=3), Polynomial(p=7)):
        plain = as_json(Wide(choice=choice), "settings", Wide)
        del plain["choice"]["class"]
        assert rebuild(Wide(), plain).choice == choice
    del plain["twins"]["class"]
    with pytest.raises(ToylabError, match=r"^settings\.twins: does not tell which of Copy, ModularSum it is"):
        rebuild(Wide(), plain)


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_key_that_is_unknown_or_missing_is_refused_by_name(kind):
    whole = as_json(kind(), "settings", kind)
    for path, held in inner_objects(whole, "settings"):
        for key in held:
            broken = copy.deepcopy(whole)
            walk(broken, path).pop(key)
            with pytest.raises(ToylabError, match=rf"^{path}\.{key}: is missing"):
                rebuild(kind(), broken)
            broken = copy.deepcopy(whole)
            walk(broken, path)[f"{key}x"] = 1
            with pytest.raises(ToylabError, match=rf"^{path}: there is no setting '{key}x'; "):
                rebuild(kind(), broken)


def inner_objects(held: Any, path: str) -> list[tuple[str, dict]]:
    if not isinstance(held, Mapping):
        return []
    return [(path, held)] + [one for key, value in held.items() for one in inner_objects(value, f"{path}.{key}")]


def walk(held: Any, path: str) -> Any:
    for step in path.split(".")[1:]:
        held = held[step]
    return held


def test_a_class_that_the_annotation_does_not_have_is_refused_by_name():
    told = as_json(Wide(any_task=Polynomial()), "settings", Wide)
    with pytest.raises(ToylabError, match=r"^settings\.any_task: is a Polynomial, and its annotation has Parity"):
        rebuild(Wide(), told)


@given(
    st.recursive(st.integers() | st.floats() | st.none() | st.text(), lambda x: st.lists(x, max_size=3), max_leaves=6)
)
def test_json_holds_all_but_what_is_not_finite_and_names_where_that_is(value):
    def broken(held: Any) -> bool:
        return any(map(broken, held)) if isinstance(held, list) else isinstance(held, float) and not math.isfinite(held)

    if broken(value):
        with pytest.raises(ToylabError, match=r"^result\.tests\.state(\[\d+\])*=-?(nan|inf): "):
            as_json({"tests": {"state": value}}, "result")
    else:
        assert as_json({"tests": {"state": value}}, "result") == {"tests": {"state": value}}


def test_json_takes_the_numbers_of_numpy_and_torch_for_what_they_are():
    value = {
        np.int64(3): np.int64(3),
        "a": np.arange(2),
        "b": torch.eye(1),
        "c": np.bool_(True),
        "d": (np.float32(0.5),),
    }
    assert json.dumps(as_json(value, "x")) == '{"3": 3, "a": [0, 1], "b": [[1.0]], "c": true, "d": [0.5]}'


# As flags ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Flagged:
    """Settings that the command line can give, a choice of classes among them."""

    choice: Parity | Polynomial = Parity()
    deep: Deep = Deep()
    maybe: ModularSum | None = None
    pairs: tuple[tuple[int, int], ...] = ((1, 2),)
    weights: dict[str, float] = field(default_factory=lambda: {"a": 1.0, "b": 2.0})
    yes: bool = True
    limit: int | None = None
    note: str = ""


@given(
    st.builds(
        Flagged,
        choice=instances(Parity) | instances(Polynomial),
        deep=st.builds(Deep, inner=TWINS, rate=st.integers(1, 4)),
        maybe=st.none() | instances(ModularSum),
        pairs=st.lists(st.tuples(st.integers(-3, 9), st.integers(0, 9)), min_size=1, max_size=3).map(tuple),
        weights=st.fixed_dictionaries({"a": st.floats(-2, 2), "b": st.floats(-2, 2)}),
        yes=st.booleans(),
        limit=st.none() | st.integers(-9, 9),
        note=st.text("ab -", max_size=4),
    )
)
def test_flags_make_one_setting_out_of_another(settings):
    assert flags(settings, settings) == []
    for default in (Flagged(), replace(Flagged(), choice=Polynomial(p=5), maybe=ModularSum(p=3))):
        assert tyro.cli(Flagged, default=default, args=flags(default, settings)) == settings


# Seeds and options ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**200))
def test_seeds_that_agree_in_their_low_bits_differ_and_small_ones_stay(seed, high):
    assert torch_seed(seed) == seed
    assert torch_seed(np.uint32(seed)) == seed
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
        path: "Nowhere"
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

    assert fit(Own, Own(), "x").limit is None
    with pytest.raises(ToylabError, match=r"^limit='a'"):
        check_settings(Own(limit="a"))


OPTIONS = {
    "Parity.sample(split)": lambda: untyped(Parity.sample)(Parity(), tasks.stream(0), 1, "tset"),
    "Parity.sample(no rows)": lambda: untyped(Parity.sample)(Parity(), tasks.stream(0), 0, "tset"),
    "Parity.capacity(split)": lambda: untyped(Parity.capacity)(Parity(), 3, "tset"),
    "ContextualCounting.sample(split)": lambda: untyped(COUNTING.sample)(COUNTING(), tasks.stream(0), 0, "tset"),
    "ContextualCounting.append_zeros(where)": lambda: untyped(COUNTING.append_zeros)(COUNTING(), None, 1, "strat"),
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
from toylab.runs import store as runs
from toylab.model import steering
from toylab.model.generate import generate
from toylab.survey import trained

def weights(model):
    return [parameter.tolist() for parameter in model.parameters()]

def saved(model):
    path = Path(tempfile.mkdtemp()) / "model.safetensors"
    runs.save_model(path, model)
    return weights(runs.load_model(path))

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
    lambda: [table(one) for one in evaluate.held_out(tasks.Parity(), i(0), [i(4), i(5)], i(1)).values()],
    lambda: weights(low_rank.confine(toylab.Transformer(toylab.ModelConfig(), 5, 8), i(2), i(1))),
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


def test_integers_of_numpy_serve_wherever_integers_do():
    done = subprocess.run([sys.executable, "-c", INTEGERS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# Names ---------------------------------------------------------------------------------------------------------------


def test_every_synonym_leads_to_an_option_that_there_is():
    options = {str(word) for kind in SETTINGS for hint in hints(kind).values() for word in words(hint)}
    known = {
        *POSITIONS,
        *tasks.SPLITS,
        *options,
        *(re.sub(r"(?<!^)([A-Z])", r"-\1", kind.__name__).lower() for kind in tasks.TASKS),
    }
    assert set(SYNONYMS.values()) <= known
    assert not set(SYNONYMS) & known
    for word, option in SYNONYMS.items():
        for name in (word, word.upper()):
            assert str(unknown("option", name, known)) == f"there is no option {name!r}; did you mean {option}?"
    assert "sinusoidal" not in str(unknown("option", "sin", ["cosine", "rotary"]))
    with pytest.raises(ToylabError, match="'rope'; did you mean rotary"):
        ModelConfig(positions="rope")


def test_a_module_of_somebody_elses_that_fails_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "sound_one.py").write_text("class Sound: ...\n")
    assert load_class("task", "sound_one:Sound").__name__ == "Sound"
    for name, line, error in (
        ("needs_one", "import not_installed_at_all", ModuleNotFoundError),
        ("itself_one", "import itself_one.part", ModuleNotFoundError),
        ("fails_one", "raise ValueError('a fault')", ValueError),
        ("import_one", "from sound_one import nothing", ImportError),
        ("syntax_one", "class", SyntaxError),
    ):
        (tmp_path / f"{name}.py").write_text(f"{line}\n")
        with pytest.raises(error) as caught:
            load_class("task", f"{name}:Task")
        assert not isinstance(caught.value, ToylabError)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere_one:Task", "there is no module 'nowhere_one'"),
        ("tasks.nowhere:Task", "there is no module 'tasks.nowhere'"),
        ("tasks.iteration:Paraty", "did you mean Parity"),
        ("tasks.iteration:stream", "there is no task 'stream'"),
        ("tasks/iteration.py:Parity", "names no module"),
        ("iteration.py:Parity", "names no module"),
        (":Parity", "names no module"),
        ("tasks..iteration:Parity", "names no module"),
        (".iteration:Parity", "names no module"),
    ],
)
def test_a_module_or_class_that_there_is_not_is_a_line(name, told):
    with pytest.raises(ToylabError, match=re.escape(told)):
        load_class("task", name)
