"""Laws of the widgets: they show what torch computes, in a browser without network and in a real kernel."""

import builtins
import json
from base64 import b64decode
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

from tests.report import live_panels
from tests.report.test_browser import needs_browser, read_as_a_reader
from tests.test_readme import example
from toylab import widgets
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.interop import adopt
from toylab.model.transformer import Transformer
from toylab.probes import edit, watch, zero_heads
from toylab.tasks import IGNORE, TASKS, AssociativeRecall, Parity, decode, held_out, stream
from toylab.widgets import Attention, LiveModel

TASK = AssociativeRecall()
BATCH = TASK.sample(stream(0, "widgets"), 2, "test")


def model(**settings) -> Transformer:
    """Random weights, so large that every head has a pattern of its own."""
    made = Transformer.for_task(TASK, replace(ModelConfig(heads=2, width=16, positions="learned"), **settings), 0)
    with torch.no_grad():
        for weight in made.parameters():
            weight *= 3
    return made.eval()


def to_nan(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        module.weight.data.fill_(torch.nan)


def encoder() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


class Own(nn.Module):
    """A user's module with one point, whose pattern is uniform."""

    def __init__(self, heads: bool = True) -> None:
        super().__init__()
        self.pattern, self.heads = nn.Identity(), heads

    def forward(self, tokens):
        rows, size = tokens.shape
        return self.pattern(torch.full((rows, 3, size, size) if self.heads else (rows, size, size), 1 / size))


def mount(tmp_path, shown: Attention | LiveModel, script: str, id: str) -> dict:
    """What a script found in a second mounting of a widget, on a stub of the model object of anywidget."""
    state = {name: value for name, value in shown.widget.get_state().items() if name in ("markup", "data", "state")}
    text = json.dumps([shown.widget._esm, state]).replace("<", "\\u003c")
    page = f"""<!doctype html><html><head><title>a notebook</title></head><body aria-busy="true">
    <script type="application/json" id="sent">{text}</script>
    <script type="module">
      const [code, state] = JSON.parse(document.getElementById("sent").textContent);
      const model = {{ get: (name) => state[name], set: (name, value) => {{ state[name] = value; }},
        save_changes: () => {{ window.saved = {{ ...state.state }}; }}, on() {{}}, off() {{}}, send() {{}} }};
      const {{ default: widget }} = await import(URL.createObjectURL(new Blob([code], {{ type: "text/javascript" }})));
      for (const id of ["first", "second"]) {{
        const el = document.createElement("div");
        el.id = id;
        document.body.append(el);
        await widget.render({{ model, el }});
      }}
      document.body.removeAttribute("aria-busy");
    </script></body></html>"""
    root = 'document.querySelector("#second > div").shadowRoot'
    return read_as_a_reader(tmp_path, page, script, id, root=root)


def patterns_of(model: nn.Module, tokens: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad(), watch(model, "*.pattern") as cache:
        model(tokens)
    return [pattern.numpy() for pattern in cache.values()]


@needs_browser
@pytest.mark.slow
def test_attention_in_a_browser_is_that_of_torch(tmp_path):
    shown = model()
    found = mount(
        tmp_path, Attention(shown, BATCH, TASK.vocabulary),
        """const all = (query) => [...Array(query + 1).keys()].map((key) => Number(shade(query, key)));
        set("head", "1.1", "change"); set("scene", "1", "change"); found.weights = all(12);
        point(12, 3, "pointermove"); found.cell = text("cell"); found.saved = window.saved;
        found.first = document.querySelector("#first > div").shadowRoot.querySelector("#viewer-head").value;
        found.hidden = [$("steps").hidden, $("scenes").hidden, $("linked").hidden];""",
        "viewer",
    )  # fmt: skip
    row = patterns_of(shown, torch.from_numpy(BATCH.tokens))[1][1, 1, 12]
    np.testing.assert_allclose(found["weights"], row[:13], atol=1e-5)
    names = decode(TASK, BATCH.tokens[1].tolist())
    assert found["cell"] == f"position 12 ({names[12]}) attends to position 3 ({names[3]}): {row[3]:.3f}"
    assert found["saved"]["head"] == "1.1"
    assert found["first"] == "0.0"
    assert found["hidden"] == [True, False, False]


@needs_browser
@pytest.mark.slow
def test_the_model_of_any_task_answers_and_changes_in_a_browser_as_in_torch(tmp_path):
    shown = model()
    row = held_out(TASK, 0, widgets.EXAMPLES, purpose="widget").rows(0, 1)
    scored = row.targets[0] != -100
    typed = " ".join(decode(TASK, row.tokens[0, :5].tolist()))
    found = mount(
        tmp_path, LiveModel(shown, TASK),
        f"""const answer = () => [...root.querySelectorAll("#live-answer dd")].map((line) => line.innerText.trim());
        found.first = answer(); found.share = text("quantity"); found.links = root.querySelectorAll(".link").length;
        set("head", "1.0", "change"); found.weight = Number(shade(12, 5));
        root.querySelector('#live-parts input[value="1.0"]').click(); found.off = answer()[0];
        set("input", "{typed}"); found.typed = answer(); found.saved = window.saved;
        set("input", "q"); found.error = text("error");""",
        "live",
    )  # fmt: skip

    def predicted(tokens: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return shown.double()(torch.from_numpy(tokens))[0].argmax(dim=-1).numpy()

    answer = predicted(row.tokens)[scored]
    assert found["first"] == [" ".join(decode(TASK, ids.tolist())) for ids in (answer, row.targets[0][scored])]
    assert f"{(answer == row.targets[0][scored]).mean():.3f}" in found["share"]
    assert found["links"] == sum(map(len, row.links.values()))
    weight = patterns_of(shown, torch.from_numpy(row.tokens))[1][0, 0, 12, 5]
    assert found["weight"] == pytest.approx(weight, abs=1e-6)
    with edit(shown, {"blocks.1.attn.z": zero_heads(0)}):
        assert found["off"] == " ".join(decode(TASK, predicted(row.tokens)[scored].tolist()))
        assert found["typed"][0] == " ".join(decode(TASK, predicted(row.tokens[:, :5]).tolist()))
    assert found["typed"][1] == "known for the held-out examples"
    assert found["error"].startswith("q: is no token here")
    assert found["saved"] == {**found["saved"], "gain": "blocks.1.attn.0:0", "input": typed}


@needs_browser
@pytest.mark.slow
def test_the_live_model_of_a_task_of_the_studies_knows_every_solution(tmp_path):
    panel, task = live_panels.iteration(), live_panels.MAP
    found = mount(
        tmp_path, LiveModel(panel.models["seed 0"], task),
        """const answer = () => [...root.querySelectorAll("#live-answer dd")].map((line) => line.innerText.trim());
        set("input", "4 3 2 1 2"); found.typed = answer(); found.head = $("head").value;""",
        "live",
    )  # fmt: skip
    assert found["typed"] == [" ".join(map(str, task.trace([4, 3, 2, 1, 2], None)))] * 2
    assert found["head"] == "1.0"


@pytest.mark.slow
def test_a_notebook_shows_the_widgets(tmp_path):
    code = """from toylab import Transformer, single_thread
from toylab.survey import DEFAULT_MODEL
from toylab.tasks import AssociativeRecall, held_out
from toylab.widgets import Attention, LiveModel
single_thread()
task = AssociativeRecall()
model = Transformer.for_task(task, DEFAULT_MODEL, 0)"""
    cells = [code, "LiveModel(model, task)", "Attention(model, held_out(task, 0, 2), task.vocabulary)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    states = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    for cell in notebook.cells[1:]:
        (output,) = cell.outputs
        view = output["data"]["application/vnd.jupyter.widget-view+json"]
        sent = states[view["model_id"]]["state"]
        assert "export default toyWidget" in sent["_esm"]
        assert sent["data"]["vocabulary" if "Live" in cell.source else "scenes"]


def weights(shown: Attention, scene: int, layer: int, size: int) -> np.ndarray:
    """The attention that a widget was given, by head, query and key."""
    data = shown.widget.data
    packed = data["scenes"][scene]["layers"][layer]["data"]
    return np.frombuffer(b64decode(packed), "<u2").reshape(-1, size, size) / data["levels"]


def test_attention_shows_adopted_models_and_modules_with_a_point():
    inputs = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    adopted = adopt(encoder(), patterns=True)
    shown = Attention(adopted, inputs)
    assert [layer["heads"] for layer in shown.widget.data["layers"]] == [2, 2]
    np.testing.assert_allclose(weights(shown, 1, 1, 5), patterns_of(adopted, inputs)[1][1], atol=1e-5)
    own = Attention(Own(), torch.tensor([4, 7]))
    assert own.widget.data["scenes"][0]["names"] == ["4", "7"]
    np.testing.assert_allclose(weights(own, 0, 0, 2), 0.5, atol=1e-5)


def test_attention_leaves_padding_out():
    short = replace(BATCH, sizes=np.array([BATCH.tokens.shape[1], 4]), links={"one": np.array([[1, 3, 2]])})
    shown = Attention(model(), short, TASK.vocabulary)
    full, cut = shown.widget.data["scenes"]
    assert (len(full["names"]), len(cut["names"])) == (BATCH.tokens.shape[1], 4)
    assert (full["links"], cut["links"]) == ({"one": []}, {"one": [[3, 2]]})
    expected = patterns_of(model(), torch.from_numpy(BATCH.tokens))[0][1, :, :4, :4]
    np.testing.assert_allclose(weights(shown, 1, 0, 4), expected, atol=1e-5)


def test_labels_of_a_decoder_are_numbered():
    shown = Attention(live_panels.counting().models["seed 0"], torch.zeros(1, 7, dtype=torch.long), ["0"])
    titles = [layer["title"] for layer in shown.widget.data["layers"]]
    labels = [layer.get("queries") for layer in shown.widget.data["scenes"][0]["layers"]]
    assert dict(zip(titles, labels, strict=True)) == {
        "encoder, layer 0": None,
        "decoder, cross": ["label 0", "label 1"],
    }


def test_what_cannot_be_shown_is_refused_in_one_line(monkeypatch):
    for make, words in (
        (lambda: Attention(nn.Linear(2, 2), torch.zeros(1, 2)), "Linear: has no hook point that ends in pattern"),
        (lambda: Attention(model(), BATCH, ["a"]), "vocabulary: has 1 names"),
        (lambda: Attention(Own(heads=False), torch.zeros(1, 2)), r"pattern: has shape \(1, 2, 2\)"),
        (lambda: LiveModel(nn.GRU(2, 2), TASK), "model=GRU: the browser computes"),
        (lambda: LiveModel(model(), Parity()), "model: has .* tokens, and Parity has 9"),
        (lambda: Attention(model().apply(to_nan), BATCH), "pattern: has nan"),
    ):
        with pytest.raises(ToylabError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "anywidget":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    widgets._widget_class.cache_clear()
    with pytest.raises(ToylabError, match=r"pip install 'toylab\[notebooks\]'"):
        LiveModel(model(), TASK)


@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
def test_every_example_is_an_input_of_a_held_out_row_that_the_panel_can_solve(kind):
    """A reader's way from the text back to the solution, by the facts that the script is given."""
    task = kind()
    shown = LiveModel(Transformer.for_task(task, ModelConfig(heads=2, width=8), 0), task).widget.data
    facts, ids = shown["task"], {name: token for token, name in enumerate(task.vocabulary)}
    batch = held_out(task, 0, widgets.EXAMPLES, purpose="widget")
    for row, (_, text) in enumerate(shown["examples"]):
        size, words = batch.sizes[row], text.split()
        targets = [token for token in batch.targets[row, :size].tolist() if token != IGNORE]
        if shown["kind"] == "tokens":
            solution = [name for _, name in facts["rows"][text]["targets"]]
        elif shown["kind"] == "iteration":
            states = [facts["first"][ids[words[0]]]]
            for word in words[1:]:
                states.append(facts["next"][states[-1]][ids[word]])
            solution = [*decode(task, states), "EoS"]
            assert set(words) <= set(facts["inputs"])
        elif shown["kind"] == "refusal":
            letters = [ids[word] for word in words[2:]]
            for name in words[:2]:
                images = facts["images"][facts["operators"].index(name)]
                letters = [images[letter] for letter in letters]
            solution = decode(task, letters)
        else:
            states = [int(words[0])]
            for word in words[1:]:
                states.append(facts["permutation"][(states[-1] + int(word)) % len(facts["digits"])])
            solution = ["THINK", *map(str, states[1:]), "ANS", str(states[-1]), "EOS"]
            targets = task.solve(batch.tokens[row, : task.prompt].tolist())
        assert solution[-len(targets) :] == decode(task, targets)


def test_a_string_for_an_encoder_is_that_of_its_row():
    task = live_panels.STRINGS
    strings, sizes = task.strings(held_out(task, 0, widgets.EXAMPLES, purpose="widget"))
    expected = ["".join(decode(task, string[:size].tolist())) for string, size in zip(strings, sizes, strict=True)]
    shown = LiveModel(live_panels.counting().models["seed 0"], task).widget.data
    assert [text for _, text in shown["examples"]] == expected


def test_the_head_shown_first_attends_to_the_links_that_the_panel_marks():
    panel = live_panels.iteration()
    assert LiveModel(panel.models["seed 0"], panel.task).widget.data["start"] == {"model": "1.0"}


def test_the_example_of_the_documentation_runs(monkeypatch):
    monkeypatch.setattr("toylab.survey.train_on_task", lambda task: model())
    exec(example("import Attention, LiveModel"), {})
