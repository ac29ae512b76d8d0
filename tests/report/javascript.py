"""Runs the scripts of a page, in node where there is one, else in a headless browser."""

import html
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_engine = pytest.mark.skipif(
    not (NODE or BROWSER), reason="neither node nor Chromium here: apt-get install nodejs"
)

CALL = """
const attempt = (f) => { try { return f(); } catch (error) { return { error: error.message }; } };
const rows = (x) => x.map((row) => [...row]);
const run = (toy, data) => { %s };
"""


def source(name: str) -> str:
    return files("toylab.report").joinpath(name).read_text(encoding="utf-8")


def run_model_script(body: str, data: Any, folder: Path, engine: str | None = None) -> Any:
    """What the body returns, with `toy` (the functions of model.js) and `data` in scope."""
    script, given = CALL % body, json.dumps(data)
    if (engine or ("node" if NODE else "browser")) == "node":
        text = f"const toy = (() => {{ {source('model.js')} return toyModel; }})();\n{script}\n"
        text += f"process.stdout.write(JSON.stringify(run(toy, {given})));"
        (folder / "run.js").write_text(text, encoding="utf-8")
        done = subprocess.run([NODE, folder / "run.js"], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)
    page = f"<pre id=found></pre><script>{source('model.js')}</script><script>{script}\n"
    page += "document.getElementById('found').textContent = JSON.stringify(run(toyModel, "
    (folder / "run.html").write_text(page + given.replace("<", "\\u003c") + "));</script>", encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", "--dump-dom",
        (folder / "run.html").as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    (found,) = re.findall(r"<pre id=\"found\">(.*?)</pre>", shown, flags=re.DOTALL)
    return json.loads(html.unescape(found))
