"""SVG inside a page: about half the characters that matplotlib writes, and no style or id for the rest of the page."""

from __future__ import annotations

import re
from collections import Counter
from html import escape
from xml.etree import ElementTree

from toylab.files import sha256_of

_LEFT_OUT = ("metadata", "style")
"""The style would hold for all elements of the page; `page.css` has it for figures alone."""


def inline_svg(svg: str) -> str:
    """The drawing of an SVG file as an element of a page, with coordinates to a hundredth of a point.

    Styles that recur become classes, named by their content, so that figures of a page may share them.

    Raises:
        xml.etree.ElementTree.ParseError: for a text that is no XML.
    """
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r"#([^\s\"')]+)", svg))
    styles = Counter(element.attrib["style"] for element in root.iter() if "style" in element.attrib)
    classes = {style: f"s{sha256_of(style.encode())[:6]}" for style, count in styles.items() if count > 1}
    drawing = _element(root, used, classes)
    rules = "".join(f".{name}{{{_short_style(style)}}}" for style, name in classes.items())
    start = drawing.index(">") + 1
    return f"{drawing[:start]}<style>{rules}</style>{drawing[start:]}" if rules else drawing


def _element(element: ElementTree.Element, used: set[str], classes: dict[str, str]) -> str:
    name = _local(element.tag)
    if name in _LEFT_OUT:
        return ""
    attributes = []
    for key, value in element.attrib.items():
        if (key == "id" and value not in used) or value.startswith("rotate(-0 "):
            continue
        if key == "style" and value in classes:
            attributes.append(f' class="{classes[value]}"')
        else:
            attributes.append(f' {_local(key)}="{escape(_short(key, value))}"')
    text = element.text or ""
    children = "".join(
        _element(child, used, classes) + escape((child.tail or "") if (child.tail or "").strip() else "")
        for child in element
    )
    content = (escape(text, quote=False) if name == "text" or text.strip() else "") + children
    if not content and name in ("g", "defs"):
        return ""
    if not attributes and name == "g":
        return content
    return f"<{name}{''.join(attributes)}" + (f">{content}</{name}>" if content else "/>")


def _local(name: str) -> str:
    """The name without its namespace, which elements of a page do not need."""
    return name.rpartition("}")[2]


def _short(key: str, value: str) -> str:
    if key == "style":
        return _short_style(value)
    if _local(key) == "href":
        return value
    rounded = re.sub(r"(?<![\d.\w#])(-?\d+\.\d\d)\d+(?=[^\d]|$)", lambda number: f"{float(number[0]):.2f}", value)
    if key == "d":  # line breaks, and a command that is repeated or that follows from the one before
        rounded = re.sub(r"\s+", " ", re.sub(r"\s*([A-Za-z])\s*", r"\1", rounded)).strip()
    return rounded


def _short_style(style: str) -> str:
    return re.sub(r"([:;])\s+", r"\1", style)
