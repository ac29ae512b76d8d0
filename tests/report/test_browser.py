"""The page of a run in a real browser, without any network: what a reader sees, moves and hears.

The page is opened with a script of ours behind it that acts as a reader would and writes down what happens.
"""

import html
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image

from tests.report.javascript import BROWSER
from tests.report.pages import asks_no_network
from toylab.report.bars import BarHistory
from toylab.report.live import LivePanel
from toylab.report.page import render_page
from toylab.runs import scoreboard
from toylab.runs.judge import judge_and_report
from toylab.training.attention_history import HistoryPage
from toylab.verdicts.judgement import Judgement

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium, and this runs")
pytestmark = [needs_browser, pytest.mark.slow]

HOSTILE = "<script>document.title='taken'</script>"
NAMES = ["start", HOSTILE, "&amp;", "EoS"]
FRAMES, LAYERS, HEADS, SIZE = 3, 2, 2, len(NAMES)


def film() -> HistoryPage:
    """Weights that tell where they come from: another one in every cell."""
    size = FRAMES * LAYERS * HEADS * SIZE * SIZE
    patterns = (torch.arange(size) % 251).to(torch.uint8).view(FRAMES, LAYERS, HEADS, SIZE, SIZE)
    scene = {"title": "a sequence", "names": NAMES, "links": {"carry": [[2, 1]]}}
    shorter = {"title": HOSTILE, "names": NAMES[:2], "links": {}}
    return HistoryPage(
        "Watch it form",
        "What is shown.",
        [0, 100, 200],
        [shorter, scene],
        [torch.zeros(FRAMES, LAYERS, HEADS, 2, 2, dtype=torch.uint8), patterns],
        {"loss": [2.0, 1.0, 0.5], HOSTILE: [0.0, 0.5, 1.0]},
        (1, 0),
    )


def weight(frame: int, layer: int, head: int, query: int, key: int) -> str:
    return f"{film().patterns[1][frame, layer, head, query, key].item() / 255:.3f}"


def browse(
    tmp_path: Path,
    script: str,
    width: int = 1000,
    panel: LivePanel | None = None,
    link: str = "#step=200",
    flags: tuple[str, ...] = (),
    bars: BarHistory | None = None,
) -> dict:
    """What a script found on the page of a film or of a panel, and every error that the page made."""
    claim = Judgement(
        id="one",
        place="p",
        statement=HOSTILE,
        criterion="c",
        measured=0.5,
        interval=(0.4, 0.6),
        seeds=tuple(range(6)),
        verdict="uninformative",
    )
    shown = {"film": bars or film()} if panel is None else {"live": panel}
    text = render_page("A study", "About it.", [claim], [], {"token": HOSTILE}, "toylab run", "free", **shown)
    asks_no_network(text)
    found = read_as_a_reader(tmp_path, text, script, "viewer" if panel is None else "live", width, link, flags)
    assert found["title"] == "A study"
    return found


def read_as_a_reader(
    tmp_path: Path,
    text: str,
    script: str,
    id: str,
    width: int = 1000,
    link: str = "",
    flags: tuple[str, ...] = (),
    root: str = "document",
) -> dict:
    """What a script found on a page once its panels have started; `root` is what holds the elements, in JavaScript."""
    before = "<script>window.wrong = []; window.onerror = (what) => { window.wrong.push(String(what)); };"
    before += " addEventListener('unhandledrejection', ({ reason }) => window.wrong.push(String(reason)));</script>"
    after = f"""<script>(async () => {{
      const wait = (time) => new Promise((done) => setTimeout(done, time));
      while (document.querySelector("[aria-busy=true]") && !window.wrong.length) await wait(5);
      const root = {root}, $ = (id) => root.querySelector("#{id}-" + id), found = {{}};
      const text = (id) => $(id).textContent.trim(), press = (id, key) =>
        $(id).dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true, cancelable: true }}));
      const set = (id, value, event = "input") => {{ $(id).value = value; $(id).dispatchEvent(new Event(event)); }};
      const move = (value) => set("step", value);
      const cell = (query, key) => root.querySelector(`.weight[data-query="${{query}}"][data-key="${{key}}"]`);
      const shade = (query, key) => cell(query, key).style.getPropertyValue("--w");
      const point = (query, key, event, buttons = 0) => cell(query, key).dispatchEvent(
        new PointerEvent(event, {{ bubbles: true, buttons }}));
      try {{ {script} }} catch (error) {{ window.wrong.push(String(error)); }}
      const told = document.createElement("pre");
      told.id = "found";
      told.textContent = JSON.stringify({{ ...found, wrong: window.wrong, title: document.title }});
      document.body.append(told);
    }})();</script>"""
    path = tmp_path / "page.html"
    path.write_text(text.replace("<head>", "<head>" + before).replace("</body>", after + "</body>"), encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", *flags,
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=4000",
        "--dump-dom", path.as_uri() + link,
    ]  # fmt: skip
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    (told,) = re.findall(r'<pre id="found">(.*?)</pre>', dumped, flags=re.DOTALL)
    found = json.loads(html.unescape(told))
    assert found["wrong"] == []
    return found


def test_bars_follow_the_slider_and_the_training_and_play_unless_a_step_is_linked(tmp_path):
    bars = BarHistory(
        title="Bars", caption="What is shown.", names=["one", HOSTILE], unit="nats", steps=[0, 100, 200],
        scenes={"first": [[0.0, 0.0], [1.0, -1.0], [3.0, -1.0]], "second": [[0.0, 4.0]] * 3},
    )  # fmt: skip
    script = """const width = (n) => Number(document.querySelectorAll(".bars rect")[n].getAttribute("width"));
        found.last = [text("at"), width(0) / width(1), text("cell")];
        const first = width(0);
        move(1); found.middle = [text("at"), width(0) / width(1), location.hash];
        set("scene", 1, "change"); found.second = [text("cell"), width(0), width(1) / first];"""
    found = browse(tmp_path, script, bars=bars)
    assert found["last"][:2] == ["200", pytest.approx(3)]
    assert found["last"][2].startswith("Step 200: highest one 3.00")
    assert found["middle"] == ["100", pytest.approx(1), "#step=100&scene=0"]
    assert found["second"][1:] == [0, pytest.approx(4 / 3)]  # on the same scale
    assert "4.00" in found["second"][0]
    played = browse(
        tmp_path, "found.first = text('at'); await wait(1500); found.then = text('at');", link="", bars=bars
    )
    assert (played["first"], played["then"]) == ("0", "200")
    still = browse(tmp_path, "found.at = text('at');", link="", bars=bars, flags=("--force-prefers-reduced-motion",))
    assert still["at"] == "200"


def test_the_slider_changes_the_pattern_the_step_and_the_curves(tmp_path):
    found = browse(
        tmp_path,
        """found.last = [text("at"), shade(3, 2)]; found.curve = text("curves");
        move(0); found.first = [text("at"), shade(3, 2)]; found.early = text("curves"); found.link = location.hash;""",
    )
    assert found["last"][0] == "200"
    assert found["first"][0] == "0"
    assert [f"{float(found[at][1]):.3f}" for at in ("last", "first")] == [weight(2, 1, 0, 3, 2), weight(0, 1, 0, 3, 2)]
    assert "loss: 0.500" in found["curve"]
    assert "loss: 2.000" in found["early"]
    assert found["link"] == "#step=0&head=1.0&scene=1"


def test_a_page_plays_once_from_step_0_and_a_link_or_reduced_motion_stops_it(tmp_path):
    told = """found.opened = [text("play"), text("at"), $("head").value];
        await wait(1500); found.later = [text("play"), text("at")];"""
    assert browse(tmp_path, told, link="") | {"wrong": []} == {
        "opened": ["Pause", "0", "1.0"], "later": ["Play", "200"], "wrong": [], "title": "A study",
    }  # fmt: skip
    linked = browse(tmp_path, told, link="#step=100&head=0.1")
    assert (linked["opened"], linked["later"]) == (["Play", "100", "0.1"], ["Play", "100"])
    still = browse(tmp_path, told, link="#claim-one", flags=("--force-prefers-reduced-motion",))
    assert still["opened"] == still["later"] + ["1.0"] == ["Play", "200", "1.0"]


def test_hovering_tells_the_value_that_is_stored(tmp_path):
    found = browse(
        tmp_path,
        """point(2, 1, "pointermove"); found.cell = text("cell");
        $("head").value = "0.1"; $("head").dispatchEvent(new Event("change")); found.other = text("cell");""",
    )
    said = f"position 2 (&amp;) attends to position 1 ({HOSTILE}): "
    assert found["cell"] == said + weight(2, 1, 0, 2, 1)
    assert found["other"] == said + weight(2, 0, 1, 2, 1)


def test_the_keyboard_reaches_every_cell_and_stops_at_the_edge(tmp_path):
    found = browse(
        tmp_path,
        """$("pattern").focus(); found.focused = document.activeElement.id;
        press("pattern", "ArrowRight"); press("pattern", "ArrowUp"); found.cell = text("cell");
        for (let n = 0; n < 9; n++) { press("pattern", "ArrowDown"); press("pattern", "ArrowRight"); }
        found.corner = text("cell");""",
    )
    assert found["focused"] == "viewer-pattern"
    assert found["cell"].endswith(": " + weight(2, 1, 0, 2, 1))
    assert found["corner"].endswith(": " + weight(2, 1, 0, 3, 3))


def test_scenes_links_and_playing(tmp_path):
    found = browse(
        tmp_path,
        """found.cells = document.querySelectorAll(".weight").length;
        found.links = document.querySelectorAll(".link").length;
        $("links").click(); found.hidden = document.querySelector(".marks").style.display;
        $("scene").value = "0"; $("scene").dispatchEvent(new Event("change"));
        found.fewer = document.querySelectorAll(".weight").length;
        $("play").click(); found.playing = [text("play"), text("at")];
        await new Promise((done) => setTimeout(done, 1500)); found.played = [text("play"), text("at")];""",
    )
    assert (found["cells"], found["links"], found["hidden"], found["fewer"]) == (16, 1, "none", 4)
    assert found["playing"] == ["Pause", "0"]
    assert found["played"] == ["Play", "200"]


def test_a_hostile_token_stays_text(tmp_path):
    found = browse(
        tmp_path,
        """found.scripts = document.querySelectorAll("script").length;
        found.shown = [...document.querySelectorAll("#viewer-pattern text")].map((one) => one.textContent);""",
    )
    assert found["scripts"] == 4  # the two of the page, and the two of this test
    assert found["shown"].count(HOSTILE) == 2


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_nothing_is_wider_than_the_window(tmp_path, width):
    found = browse(
        tmp_path,
        "found.wide = [document.documentElement.scrollWidth, document.documentElement.clientWidth];",
        width,
    )
    assert found["wide"][0] <= found["wide"][1]


def test_everything_that_can_be_used_has_a_name(tmp_path):
    found = browse(
        tmp_path,
        """found.nameless = [..."input select button [tabindex]".split(" ").flatMap(
            (kind) => [...document.querySelectorAll("#viewer " + kind)])]
          .filter((one) => !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label")))
          .map((one) => one.id);""",
    )
    assert found["nameless"] == []


# Pictures of real pages, to be looked at: `TOYLAB_SCREENSHOTS=FOLDER` keeps them --------------------------------------


@pytest.fixture(scope="module")
def pages(short_run, tmp_path_factory) -> dict[str, Path]:
    """The page of a quick run, and the scoreboard of the README."""
    folder = tmp_path_factory.mktemp("pages")
    judge_and_report(short_run)
    board = folder / "scoreboard.html"
    board.write_text(scoreboard.board_page(scoreboard.published_scoreboard()), encoding="utf-8")
    return {"run": short_run / "report.html", "scoreboard": board}


def chromium(*arguments: str, profile: Path) -> None:
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", "--virtual-time-budget=4000", *arguments,
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, timeout=120, check=True)


@pytest.mark.parametrize(("kind", "width", "scheme"), [("run", 1200, "dark"), ("scoreboard", 360, "light")])
def test_pages_are_pictured_in_both_schemes(pages, tmp_path, kind, width, scheme):
    kept = Path(os.environ.get("TOYLAB_SCREENSHOTS", tmp_path)).resolve()
    kept.mkdir(parents=True, exist_ok=True)
    path = kept / f"{kind}-{width}-{scheme}.png"
    chromium(
        f"--screenshot={path}",
        f"--window-size={width},1600",
        f"--blink-settings=preferredColorScheme={'0' if scheme == 'dark' else '1'}",
        pages[kind].as_uri(),
        profile=tmp_path / "profile",
    )
    shown = image.imread(path)
    assert shown.shape[:2] == (1600, width)
    paper, ink = shown[2, 2, :3], shown[..., :3].reshape(-1, 3)
    assert (paper > 0.9).all() if scheme == "light" else (paper < 0.2).all()
    assert len(np.unique((ink * 255).astype(int), axis=0)) > 50
    written = (abs(shown[..., :3] - paper).max(axis=-1) > 0.3).mean()
    assert 0.01 < written < 0.5, "neither empty nor all ink"


def test_a_page_can_be_printed(pages, tmp_path):
    path = tmp_path / "page.pdf"
    chromium(f"--print-to-pdf={path}", "--no-pdf-header-footer", pages["run"].as_uri(), profile=tmp_path / "profile")
    assert path.read_bytes().startswith(b"%PDF")
    assert path.stat().st_size > 20_000
