"""A page in a real browser, in a frame of any width: Chromium makes no window narrower than 500 pixels."""

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.report.javascript import BROWSER

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")
"""Flags of every start of Chromium; no name is resolved, so no page reaches a network."""


def visit(
    folder: Path, text: str, script: str, width: int = 1000, link: str = "", flags: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What a script, which writes into `found`, finds on a page; every error of the page is in `found.wrong`."""
    before = "<script>window.wrong = []; window.onerror = (what) => { window.wrong.push(String(what)); };</script>"
    after = f"""<script>(async () => {{
      const found = {{}}, wait = (time) => new Promise((done) => setTimeout(done, time));
      try {{ {script} }} catch (error) {{ window.wrong.push(String(error)); }}
      parent.postMessage(JSON.stringify({{ ...found, wrong: window.wrong, title: document.title }}), "*");
    }})();</script>"""
    page = folder / "page.html"
    page.write_text(text.replace("<head>", "<head>" + before).replace("</body>", after + "</body>"), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(
        f"""<pre id="found"></pre><script>
        addEventListener("message", (event) => {{ document.getElementById("found").textContent = event.data; }});
        </script><iframe width="{width}" height="900" style="border: 0" src="page.html{html.escape(link)}"></iframe>"""
    )
    command = [
        BROWSER, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},900",
        "--virtual-time-budget=4000", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    (told,) = re.findall(r'<pre id="found">(.*?)</pre>', dumped, flags=re.DOTALL)
    found = json.loads(html.unescape(told))
    assert found["wrong"] == []
    return found


OVERFLOW = """[...document.querySelectorAll("body *")].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.right > innerWidth + 1 && box.width > 0 && !one.closest(".drawing, .scroll, pre");
}).map((one) => `${one.tagName} ${one.id || one.className || one.textContent.slice(0, 40)}`)"""
"""Elements that reach beyond the window, outside the parts of a page that scroll by themselves."""
