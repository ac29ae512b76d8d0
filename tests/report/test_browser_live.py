"""The live panel of every kind in a real browser without any network: what a reader types, switches and drags."""

import pytest

from tests.report import live_panels
from tests.report.test_browser import browse, needs_browser

pytestmark = [needs_browser, pytest.mark.slow]

ANSWER = """const answer = () => [...document.querySelectorAll("#live-answer dd")].map((line) => line.innerText.trim());
const wrong = () => document.querySelectorAll("#live-answer .wrong").length;
const shares = () => [...document.querySelectorAll("#live-quantity b")].map((b) => Number(b.textContent));
const box = (value) => document.querySelector(`#live-parts input[value="${value}"]`);"""


def test_the_handwritten_head_answers_and_every_change_of_it_changes_the_answer(tmp_path):
    panel, task = live_panels.iteration(), live_panels.MAP
    found = browse(
        tmp_path,
        ANSWER + """found.first = answer(); found.share = text("quantity");
        set("input", "4 3 2 1 2"); found.typed = answer();
        box("1.0").click(); found.off = [wrong(), $("gain").value, text("quantity")];
        found.link = location.hash;
        set("gain", "1"); found.on = [wrong(), box("1.0").checked];
        box("1").click(); found.layer = wrong(); $("reset").click(); found.undone = [wrong(), location.hash];
        point(7, 4, "pointerdown"); found.dragged = [...answer(), shade(7, 4), text("quantity"), text("cell")];
        point(9, 5, "pointermove", 1); found.over = answer()[0];
        point(9, 6, "pointermove"); found.released = answer()[0];
        found.moved = location.hash;
        $("reset").click(); press("pattern", "ArrowUp"); press("pattern", "Enter"); found.entered = location.hash;
        $("reset").click(); point(3, 9, "pointerdown"); found.future = [answer()[0], location.hash, text("cell")];
        set("input", "7 7"); found.unknown = text("error"); set("input", "1 2 1 2 1 2 1"); found.long = text("error");
        set("input", "2 2"); found.again = [text("error"), ...answer()];""",
        panel=panel, link="",
    )  # fmt: skip

    def states(*inputs: int) -> str:
        return " ".join(map(str, task.trace(list(inputs), None)))

    assert found["first"] == [states(1, 2, 3, 4)] * 2
    assert "1.000" in found["share"]
    assert found["typed"] == [states(4, 3, 2, 1, 2)] * 2
    assert found["off"][0] > 0
    assert found["off"][1] == "0"
    assert found["link"] == "#input=4+3+2+1+2&head=1.0&gain=blocks.1.attn.0%3A0"
    assert found["on"] == [0, True]
    assert found["layer"] > 0
    assert found["undone"] == [0, "#input=4+3+2+1+2&head=1.0"]
    # The state after s_1, at position 7, is computed from x_4 instead of x_2, and the rest follows from it.
    assert found["dragged"][0] == states(4, 1, 2, 1, 2)
    assert found["dragged"][2] == "1"
    assert "0.800" in found["dragged"][3]
    assert found["dragged"][4].endswith("1.000, moved here by you")
    assert found["over"] == found["released"] == states(4, 1, 2, 2, 2)
    assert "moved=blocks.1.attn.0%3A7%3A4%2Cblocks.1.attn.0%3A9%3A5" in found["moved"]
    assert found["future"][:2] == [states(4, 3, 2, 1, 2), found["undone"][1]]
    assert found["future"][2].endswith("attends to position 9 (2): 0.000")
    assert "moved=blocks.1.attn.0%3A" in found["entered"]
    assert found["unknown"].startswith("7: is no token here")
    assert found["long"].startswith("7 tokens: give 1 to 6")
    assert found["again"] == ["", states(2, 2), states(2, 2)]


def test_a_link_restores_every_change(tmp_path):
    link = "#input=4+3+2+1+2&head=0.0&gain=blocks.0.attn.0:0.5&off=blocks.0.mlp_out&moved=blocks.1.attn.0:7:4"
    found = browse(
        tmp_path,
        ANSWER + """found.state = [$("input").value, $("head").value, $("gain").value, box("blocks.0.mlp_out").checked];
        set("head", "1.0", "change"); found.moved = shade(7, 4); found.link = location.hash;""",
        panel=live_panels.iteration(), link=link,
    )  # fmt: skip
    assert found["state"] == ["4 3 2 1 2", "0.0", "0.5", False]
    assert found["moved"] == "1"
    assert "off=blocks.0.mlp_out" in found["link"]


def test_the_handwritten_counter_counts_by_attention_on_ones(tmp_path):
    found = browse(
        tmp_path,
        ANSWER + """found.first = answer(); found.shares = shares();
        set("input", "[1111]00[]0"); found.typed = answer();
        box("decoder.0").click(); found.off = wrong(); $("reset").click();
        set("head", "encoder.0.0", "change"); found.rows = document.querySelectorAll(".weight").length;
        set("input", "[1["); found.nested = text("error"); set("input", "[1][1][1]"); found.many = text("error");""",
        panel=live_panels.counting(), link="",
    )  # fmt: skip
    assert found["first"] == ["2 1", "2 1"]
    assert found["shares"] == pytest.approx([2 / 12, 1 / 11], abs=0.03)  # K = 10, in weights rounded to float32
    assert found["typed"] == ["4 0", "4 0"]
    assert found["off"] > 0
    assert found["rows"] == 12 * 12
    assert found["nested"].startswith("[1[: must have regions")
    assert found["many"].startswith("3 regions")


def test_a_multiple_of_the_fine_tuning_decides_between_refusing_and_complying(tmp_path):
    found = browse(
        tmp_path,
        ANSWER + """found.tuned = [...answer(), text("quantity")];
        set("scale", "0"); found.base = [...answer(), text("quantity")];
        found.link = location.hash; found.name = text("scale-name");
        set("example", $("example").options[1].value, "change"); found.example = [$("input").value, answer()[1]];""",
        panel=live_panels.refusal(), link="",
    )  # fmt: skip
    task = live_panels.CONCEPTS
    prompt = [*task.vocabulary[: task.answer]]
    names = list(task.operators)

    def transform(*operators: str) -> str:
        letters = list(range(task.answer))
        for name in operators:
            letters = [int(task.bijections[names.index(name)][letter]) for letter in letters]
        return " ".join(task.vocabulary[letter] for letter in letters)

    assert found["tuned"][0] == " ".join(["NULL"] * task.answer)
    assert found["tuned"][1] == transform("U1", "id")
    assert "1.000" in found["tuned"][2]
    assert "NULL" not in found["base"][0]
    assert "0.000" in found["base"][2]
    assert "scale=0" in found["link"]
    assert "fine-tuning" in found["name"]
    assert found["example"] == [f"id S1 {' '.join(prompt)}", transform("id", "S1")]


def test_the_scale_of_a_vector_chooses_the_opener_of_every_seed(tmp_path):
    found = browse(
        tmp_path,
        ANSWER + """found.steered = [answer()[0], shares()]; set("scale", "0"); found.base = shares();
        set("scale", "2"); set("vector", "blocks.0.resid_post", "change"); found.zeros = shares();
        set("vector", "blocks.1.resid_post", "change"); set("seed", "seed 1", "change");
        found.other = [$("head").value, shares()[0], location.hash];
        found.correct = answer()[1]; found.scales = $("scales").hidden;""",
        panel=live_panels.steering(), link="",
    )  # fmt: skip
    task = live_panels.CHAINS
    assert found["steered"][0].startswith("THINK")
    assert found["steered"][1] == pytest.approx([1, 0], abs=0.01)
    assert found["base"][0] < 0.9
    assert found["zeros"] == found["base"]
    assert found["other"][0] == "1.1"
    assert found["other"][1] == pytest.approx(1, abs=0.01)
    assert "seed=seed+1" in found["other"][2]
    prompt = [task.token("BOS"), 0, 1, 2, task.token("SEP")]
    assert found["correct"] == " ".join(task.vocabulary[token] for token in task.solve(prompt))
    assert found["scales"] is False


@pytest.mark.parametrize("kind", ["iteration", "counting", "refusal", "steering"])
def test_every_panel_fits_into_a_phone_and_names_all_that_can_be_used(tmp_path, kind):
    found = browse(
        tmp_path,
        """found.wide = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
        const used = [...document.querySelectorAll("#live :is(input, select, button, [tabindex])")];
        const named = (one) => one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label");
        found.nameless = used.filter((one) => one.checkVisibility() && !named(one)).map((one) => one.id);
        found.lost = ["aria-describedby", "aria-labelledby"].flatMap((name) =>
          [...document.querySelectorAll(`#live [${name}]`)].map((one) => one.getAttribute(name)))
          .filter((id) => !document.getElementById(id));""",
        width=360, panel=getattr(live_panels, kind)(),
    )  # fmt: skip
    assert found["wide"][0] <= found["wide"][1]
    assert found["nameless"] == found["lost"] == []
