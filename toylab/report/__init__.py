"""The page of a run: verdicts first, then figures, then settings. One file that asks nothing of any network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from toylab.claims import Claim, numbers


@dataclass(frozen=True)
class Picture:
    """A figure as SVG text, with what it shows in a sentence or two."""

    title: str
    caption: str
    svg: str


def page(
    title: str,
    introduction: str,
    claims: Sequence[Claim],
    pictures: Sequence[Picture],
    settings: Mapping[str, Any],
    command: str,
    cost: str,
) -> str:
    """The page as HTML text; everything that comes from outside is escaped."""
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in ("holds", "fails", "open")}
    template = Template(files(__name__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        style=files(__name__).joinpath("page.css").read_text(encoding="utf-8"),
        introduction=escape(introduction),
        short="\n".join(map(_short, ("holds", "fails"), (claims, claims))),
        summary=escape(", ".join(f"{count} {_PLURAL[verdict]}" for verdict, count in counts.items() if count)),
        claims="\n".join(map(_claim, claims)),
        pictures="\n".join(map(_picture, pictures)),
        command=escape(command),
        cost=escape(cost),
        settings=escape(json.dumps(settings, indent=1, ensure_ascii=False)),
    )


_PLURAL = {"holds": "hold", "fails": "fail", "open": "open"}


def _short(verdict: str, claims: Sequence[Claim]) -> str:
    """All sentences of one verdict, one after the other."""
    said = " ".join(escape(claim.statement) for claim in claims if claim.verdict == verdict)
    return f"<p><b>{_IN_WORDS[verdict]}</b> {said}</p>" if said else ""


_IN_WORDS = {"holds": "What held here.", "fails": "What did not hold here."}


def _claim(claim: Claim) -> str:
    note = f"<p class=note>{escape(claim.note)}</p>" if claim.note else ""
    seeds = ", ".join(map(str, claim.seeds)) or "none"
    return f"""<tr class={claim.verdict}>
<td class=verdict><span>{claim.verdict}</span></td>
<td><p class=statement>{escape(claim.statement)}</p>{note}
<details><summary>{escape(claim.id)}: bar, seeds and all numbers</summary>
<dl><dt>Bar</dt><dd>{escape(claim.bar)}</dd><dt>Paper</dt><dd>{escape(claim.paper)}</dd>
<dt>Seeds</dt><dd>{escape(seeds)}</dd>{_details(claim.details)}</dl></details></td>
<td class=measured>{escape(numbers(claim))}</td></tr>"""


def _details(details: Mapping[str, Any]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd>" for name, value in details.items())


def _plain(value: Any) -> str:
    """Nested numbers as a person would write them."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(inner)}" for name, inner in value.items())
    if value is None:
        return "never"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _picture(picture: Picture) -> str:
    drawing = re.sub(r"^.*?(?=<svg)", "", picture.svg, flags=re.DOTALL)  # an XML prologue has no place in HTML
    return f"""<figure><h3>{escape(picture.title)}</h3>
<div class=drawing role=img aria-label="{escape(picture.caption)}">{drawing}</div>
<figcaption>{escape(picture.caption)}</figcaption></figure>"""
