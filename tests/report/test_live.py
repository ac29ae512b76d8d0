"""Laws of the models in a page: they compute what torch computes, under the same edits, or refuse by name."""

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cases.make_forward import PATH
from tests.report.javascript import BROWSER, needs_engine, run_model_script
from tests.report.pages import draw, read_data
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import EncoderDecoder
from toylab.model.generate import generate
from toylab.model.steering import steer
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import iteration_head
from toylab.probes import edit, follow_links, zero_heads
from toylab.report import page
from toylab.report.live import LivePanel, change_record, compressed, model_record, panel_record
from toylab.report.page import Picture
from toylab.runs import registry
from toylab.studies.contextual_counting.data import counting_model
from toylab.studies.steering_vectors.data import reasoning_model
from toylab.survey import strongest_head
from toylab.tasks import AssociativeRecall, Polynomial, stream

SMALL = ModelConfig(heads=2, width=8, hidden=12, positions="rotary")
LOGITS = "return data.tokens.map((row) => rows(toy.forward(toy.load(data.model), row)));"


def random_tokens(size: int, rows: int, length: int) -> torch.Tensor:
    return torch.randint(size, (rows, length), generator=torch.Generator().manual_seed(0))


def exact(model, tokens: torch.Tensor) -> np.ndarray:
    """Logits in float64 of the float32 weights."""
    with torch.no_grad():
        return model.double()(tokens).numpy()


def by_significance(data: str) -> str:
    """Float32 numbers of the table in the order of a page: the lowest byte of all, then the next."""
    return b64encode(b"".join(b64decode(data)[byte::4] for byte in range(4))).decode()


@needs_engine
def test_every_case_of_the_table_has_the_logits_of_torch(tmp_path):
    cases = json.loads(PATH.read_text(encoding="utf-8"))
    for packed in (packed for case in cases for packed in case["weights"].values()):
        packed["data"] = by_significance(packed["data"])
    body = """return data.map((given) => {
      const numbers = ({ data }) => [...new Float32Array(Uint8Array.from(atob(data), (x) => x.charCodeAt(0)).buffer)];
      const vectors = Object.fromEntries(Object.entries(given.steering).map(
        ([layer, packed]) => [`blocks.${layer}.resid_post`, numbers(packed)]));
      const model = toy.load(given);
      return given.tokens.map((row) => rows(toy.forward(model, row, toy.editing({ vectors }))));
    });"""
    for case, logits in zip(cases, run_model_script(body, cases, tmp_path), strict=True):
        np.testing.assert_allclose(logits, case["logits"], atol=1e-7, err_msg=case["name"])


def model_of(study: str):
    """The model of a study at its default settings, with random weights."""
    settings = registry.load_study(study).STUDY()
    if study == "contextual-counting":
        return counting_model(settings.task, settings.model, 0)
    make = reasoning_model if study == "steering-vectors" else Transformer.for_task
    return make(settings.task, settings.model, 0)


@needs_engine
@pytest.mark.parametrize(
    ("rows", "engine"),
    [(2, None), pytest.param(200, "browser", marks=[pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="none")])],
)
@pytest.mark.parametrize("study", registry.study_names())
def test_the_model_of_every_study_has_the_logits_of_torch(study, rows, engine, tmp_path):
    model = model_of(study)
    is_decoder = isinstance(model, Transformer)
    length = min(model.context, 24)
    tokens = random_tokens(model.vocab if is_decoder else model.symbols, rows, length)
    found = run_model_script(LOGITS, {"model": model_record(model), "tokens": tokens.tolist()}, tmp_path, engine)
    np.testing.assert_allclose(found, exact(model, tokens), rtol=1e-9, atol=1e-9)


@needs_engine
def test_edits_are_those_of_the_library(tmp_path):
    model, tokens = Transformer(SMALL, 7, 9, 3), random_tokens(7, 1, 6)
    vector = torch.randn(8, generator=torch.Generator().manual_seed(1))
    edits = {
        "head": ({"gains": {"blocks.1.attn.1": 0}}, {"blocks.1.attn.z": zero_heads(1)}),
        "gain": ({"gains": {"blocks.0.attn.0": 1.5}}, {"blocks.0.attn.z": lambda z: z * torch.tensor([[1.5], [1.0]])}),
        "MLP": ({"off": ["blocks.0.mlp_out"]}, {"blocks.0.mlp_out": torch.zeros_like}),
        "moved": (
            {"moved": {"blocks.1.attn.0": {"5": 2}}},
            {"blocks.1.attn.pattern": follow_links(0, np.array([[0, 5, 2]]))},
        ),
    }  # fmt: skip
    body = "return data.edits.map((edit) => rows(toy.forward(toy.load(data.model), data.tokens, toy.editing(edit))));"
    vectors = {"vectors": {"blocks.0.resid_post": vector.tolist()}}
    given = {
        "model": model_record(model),
        "tokens": tokens[0].tolist(),
        "edits": [e for e, _ in edits.values()] + [vectors],
    }
    *found, steered = run_model_script(body, given, tmp_path)
    np.testing.assert_allclose(steered, exact(steer(model, {0: vector}), tokens)[0], atol=1e-9)
    unedited = exact(model, tokens)[0]
    for logits, (name, (_, by_point)) in zip(found, edits.items(), strict=True):
        with edit(model, by_point):
            expected = exact(model, tokens)[0]
        assert abs(expected - unedited).max() > 1e-3, name
        np.testing.assert_allclose(logits, expected, atol=1e-9, err_msg=name)


@needs_engine
def test_generation_and_a_multiple_of_a_change(tmp_path):
    first, second = Transformer(SMALL, 7, 9, 0), Transformer(SMALL, 7, 9, 0)
    generator = torch.Generator().manual_seed(2)
    for weight in second.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
    tokens = random_tokens(7, 5, 4)
    body = """const first = toy.load(data.first), second = toy.load(data.second);
    const at = (share) => rows(toy.forward(toy.changed(second, data.change, share), data.tokens[0]));
    return { written: data.tokens.map((row) => toy.generate(first, row, 5, 3)), base: at(-1), beyond: at(0.5) };"""
    given = {"first": model_record(first), "second": model_record(second), "change": change_record(first, second)}
    found = run_model_script(body, given | {"tokens": tokens.tolist()}, tmp_path)
    for written, row in zip(found["written"], tokens, strict=True):
        assert written == generate(first, row[None], 5, stop=3)[0].tolist()
    beyond = Transformer(SMALL, 7, 9).double()
    for weight, a, b in zip(beyond.parameters(), first.parameters(), second.parameters(), strict=True):
        weight.data = a.data.double() + 1.5 * (b.data.double() - a.data.double())
    for name, model in {"base": first, "beyond": beyond}.items():
        np.testing.assert_allclose(found[name], exact(model, tokens[:1])[0], atol=1e-4, err_msg=name)


@needs_engine
def test_what_the_page_cannot_compute_is_refused_by_name(tmp_path):
    record = model_record(Transformer(SMALL, 7, 9))
    unknown = [{"positions": "spiral"}, {"norm": "batch"}, {"activation": "sine"}, {"experts": 4}]
    records = [{**record, "config": record["config"] | change} for change in unknown] + [{**record, "kind": "GRU"}]
    learned = model_record(Transformer(replace(SMALL, positions="learned"), 7, 3))
    body = """return [...data.records.map((record) => attempt(() => toy.load(record))),
      attempt(() => toy.forward(toy.load(data.learned), [0, 0, 0, 0]))];"""
    found = run_model_script(body, {"records": records, "learned": learned}, tmp_path)
    for answer, name in zip(
        found, ("positions=spiral", "norm=batch", "activation=sine", "experts=4", "GRU", "position 3"), strict=True
    ):
        assert answer["error"].startswith(name), answer


# The record of a panel -----------------------------------------------------------------------------------------------


def panel(**fields) -> LivePanel:
    models = {f"seed {seed}": Transformer(SMALL, 7, 9, seed) for seed in (0, 1)}
    given = {
        "task": AssociativeRecall(), "caption": "c", "claim": "one", "examples": [("a", "a")],
        "models": models, "start": {"seed 0": "1.0"},
    }  # fmt: skip
    return LivePanel(**{**given, **fields})


@settings(max_examples=20)
@given(st.floats(0, 1.5))
def test_models_fill_the_room_that_they_have_and_the_first_is_always_there(share):
    def shown(room):
        record = panel_record(both, room)
        return [model["title"] for model in record["models"]], len(compressed(record))

    both = panel()
    titles, whole = shown(inf)
    assert titles == ["seed 0", "seed 1"]
    fitting, size = shown(int(share * whole))
    assert fitting == ["seed 0"] or size <= share * whole
    assert (fitting == titles) == (share > 1.1) or 1 <= share <= 1.1  # compressed together, models are shorter


def test_a_page_of_many_models_and_large_figures_is_smaller_than_the_limit(monkeypatch):
    monkeypatch.setattr(page, "PAGE_SIZE", 400_000)
    models = {f"seed {seed}": Transformer(replace(SMALL, width=32), 7, 9, seed) for seed in range(10)}
    counts = []
    for points in (0, 10_000):
        places = torch.rand(points, 2, generator=torch.Generator().manual_seed(0)).tolist()
        path = "M 0 0 " + " ".join(f"L {x:.3f} {y:.3f}" for x, y in places)
        picture = Picture("p", "c", f'<svg xmlns="http://www.w3.org/2000/svg"><path d="{path}"/></svg>')
        text = draw(live=panel(models=models, start={}), pictures=[picture])
        assert 330_000 < len(text.encode()) < 400_000
        counts.append(len(read_data(text, "live")["models"]))
    assert 10 > counts[0] > counts[1] > 1


def test_a_record_holds_every_weight_once_and_no_unused_setting():
    tied = Transformer(replace(SMALL, unembedding="tied"), 7, 9)
    record = model_record(tied)
    assert record["weights"].keys() == {name for name, _ in tied.named_parameters()}
    assert "dropout" not in record["config"]
    assert model_record(Transformer(replace(SMALL, dropout=0.1), 7, 9))["config"]["dropout"] == 0.1
    assert (
        "dropout"
        not in model_record(EncoderDecoder(registry.load_study("contextual-counting").STUDY().model, 5, 2, 6, 9))[
            "config"
        ]["encoder"]
    )


def test_the_head_shown_first_attends_to_the_link():
    task = Polynomial(p=5, lengths=(4, 6))
    planted = iteration_head(task)
    batch = task.sample(stream(0, "test"), 8, length=6)
    assert strongest_head(planted, batch, "carry") == (1, 0)
