"""A page as a browser would see it, and pages to be seen."""

import re
from html.parser import HTMLParser
from importlib.resources import files

from hypothesis import strategies as st

from toylab.report import canvas, figures
from toylab.report.page import Picture, render_page
from toylab.verdicts.judgement import Judgement

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)>&amp;\'" $title ${claims} </pre></style>'
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=40)
DATA = {"viewer-data": ["viewer.js"], "live-data": ["model.js", "live.js"]}
"""The data elements of a page, and the scripts that read them."""
VOID = {"meta", "br", "img", "link", "hr", "input", "path", "use", "rect"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def claim(words: str = "words", **fields) -> Judgement:
    names = ("id", "place", "statement", "criterion", "note", "origin", "paper_number", "population", "uncontrolled")
    texts = dict.fromkeys(names, words)
    given = {"measured": 0.5, "interval": (0.25, 0.75), "seeds": tuple(range(6)), "verdict": "supported"}
    return Judgement(**{**texts, **given, **fields})


def picture(words: str = "words") -> Picture:
    ax = figures.plot_curves({words: ([0, 1], [0.0, 1.0])}, ylabel=words, title=words)
    return Picture(title=words, caption=words, svg=canvas.to_svg(ax.figure))


def draw(words: str = "words", **fields) -> str:
    given = {
        "title": words,
        "introduction": words,
        "claims": [claim(words, details={words: {words: words}})],
        "pictures": [Picture(words, words, "<svg></svg>")],
        "settings": {words: [words]},
        "command": words,
        "cost": words,
        "seeds": words,
    }
    return render_page(**{**given, **fields})


def asks_no_network(text: str) -> None:
    seen = Page(text)
    for tag, attributes in seen.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        assert tag != "script" or attributes in ({}, *({"type": "application/json", "id": id} for id in DATA)), (
            attributes
        )
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name.split(":")[-1] in ("src", "href", "srcset", "data", "action", "poster", "background"):
                assert (value or "").startswith(("#", "data:image/png;base64,")), f"{tag} {name}={value}"
    assert all(target.strip("\"' ").startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    # The scripts are ours, once each, and no other.
    scripts = re.findall(r"<script>\n(.*?)</script>", text, flags=re.DOTALL)
    panels = {id: names for id, names in DATA.items() if f'id="{id}"' in text}
    if 'id="viewer-bars"' in text:
        panels["viewer-data"] = ("bars.js",)
    ours = dict.fromkeys(["heatmap.js", *(name for names in panels.values() for name in names)]) if panels else []
    read = files("toylab.report").joinpath
    assert "".join(scripts).strip() == "\n".join(read(name).read_text(encoding="utf-8") for name in ours).strip()


def typeset(text: str) -> str:
    """What is left of a text whose formulas are typeset: x_t as xt, >= as one sign."""
    signed = text.replace(">=", "\u2265").replace("<=", "\u2264")
    lowered = re.sub(r"(?<!\w)([A-Za-z])_(?=[A-Za-z0-9](?!\w))", r"\1", signed)
    return re.sub(r"(?<!\w)([A-Za-z])\^(?=\d(?!\w))", r"\1", lowered)
