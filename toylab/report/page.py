"""The page of a run: verdicts, figures and settings in one HTML file without external resources."""

from __future__ import annotations

import itertools
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files
from math import ceil, floor
from string import Template
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toylab.report.bars import BarHistory
from toylab.report.canvas import to_svg, whole_figure
from toylab.report.live import LivePanel, panel_record
from toylab.training.attention_history import HistoryPage
from toylab.verdicts.judgement import (
    Judgement,
    by_kind,
    control_text,
    further_notes,
    interval_in_words,
    measured_in_words,
    sham_summary,
    shown_verdict,
    verdict_counts,
    verdict_in_words,
)


@dataclass(frozen=True)
class Picture:
    """A figure as SVG text with title, caption and the ids of the claims that it shows.

    Claims that refer to the figure by its title are added automatically.
    """

    title: str
    caption: str
    svg: str
    claims: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the figure's file and anchor; `file_names` makes names unique."""
        name = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:100]
        # The title may contain none of these letters, or collide with the anchors of claims, panels and headings.
        return f"figure-{name}".strip("-") if re.match("$|claim|figures-|reproduce-|viewer|live", name) else name


def picture(title: str, caption: str, drawn: Figure | Axes) -> Picture:
    """A `Picture` from a matplotlib figure or axes."""
    return Picture(title, caption, to_svg(whole_figure(drawn)))


class NotMeasuredError(Exception):
    """There are no results for a figure."""


def require_measured(results: Any) -> Any:
    """The given results, unless they are empty.

    Raises:
        NotMeasuredError: for empty results; `pictures` then omits the figure.
    """
    if not any(results.values() if isinstance(results, Mapping) else results):
        raise NotMeasuredError
    return results


def pictures(*figures: tuple[Any, ...]) -> list[Picture]:
    """Draw figures, each given as a function and its arguments; figures without results are omitted."""
    rendered = []
    for draw, *arguments in figures:
        with suppress(NotMeasuredError):
            rendered.append(draw(*arguments))
    return rendered


def file_names(pictures: Sequence[Picture]) -> list[str]:
    """Unique names of figures; a number distinguishes figures with equal names."""
    names: list[str] = []
    for picture in pictures:
        numbered = (f"{picture.name}-{number}" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([picture.name], numbered) if name not in names))
    return names


def render_page(
    title: str,
    introduction: str,
    claims: Sequence[Judgement],
    pictures: Sequence[Picture],
    settings: Mapping[str, Any],
    command: str,
    cost: str,
    seeds: str = "",
    film: HistoryPage | BarHistory | None = None,
    live: LivePanel | None = None,
    costs: Mapping[str, float | int] | None = None,
    thresholds: Mapping[str, Threshold] | None = None,
) -> str:
    """The page as HTML text; all inserted text is escaped.

    Args:
        settings: record of the run.
        command: command that reruns it.
        cost: total cost, machine and date, in words.
        seeds: seeds with their purposes, in words.
        film: attention or bars through training for the viewer, if any.
        live: models that run in the page, if any.
        costs: CPU-seconds of every job the claim depends on, by claim id.
        thresholds: lower and upper threshold of the judged value, by claim id.
    """
    names, costs, thresholds = file_names(pictures), costs or {}, thresholds or {}
    figure_of = {id: (name, item.title) for name, item in zip(names, pictures, strict=True) for id in item.claims}

    def rows(of_kind: Sequence[Judgement]) -> str:
        return "\n".join(
            _claim(claim, figure_of.get(claim.id), costs.get(claim.id), thresholds.get(claim.id)) for claim in of_kind
        )

    drawn = list(map(_picture, names, pictures))
    panels = [
        *([] if film is None else [_viewer(film)]),
        *([] if live is None else [_live_panel(live)]),
    ]
    viewer = "bars.js" if isinstance(film, BarHistory) else "viewer.js"
    scripts = ["heatmap.js"] * bool(panels) + [viewer] * (film is not None)
    scripts += ["model.js", "live.js"] * (live is not None)
    return fill_template(
        "page.html",
        title=escape(title),
        headline=_headline(claims, "" if live is None else live.claim),
        # Without a viewer, the first screen shows the first figure.
        panels="\n".join(panels or drawn[:1]),
        introduction=mathematics(introduction),
        seeds="\n".join(f"<p class=note>{escape(note)}</p>" for note in (seeds, sham_summary(claims)) if note),
        summary=escape(verdict_counts(claims)),
        claims="\n".join(
            Template(_read("claims.html")).substitute(
                title=kind,
                number=len(of_kind),
                open=" open" if of_kind[0].kind == "paper" else "",
                interval=interval_in_words(claims),
                rows=rows(of_kind),
            )
            for kind, of_kind in by_kind(claims).items()
        ),
        pictures="\n".join(drawn if panels else drawn[1:]),
        command=escape(command),
        cost=escape(cost),
        settings=escape(json.dumps(settings, indent=1, ensure_ascii=False)),
        scripts="<script>\n" + "\n".join(map(_read, scripts)) + "</script>" if scripts else "",
    )


def fill_template(name: str, title: str, **parts: str) -> str:
    """A complete page from a template; `title` and `parts` are HTML."""
    main = Template(_read(name)).substitute(title=title, **parts)
    return Template(_read("frame.html")).substitute(title=title, style=_read("page.css"), main=main)


def _read(name: str) -> str:
    return files("toylab.report").joinpath(name).read_text(encoding="utf-8")


def _viewer(film: HistoryPage | BarHistory) -> str:
    """The viewer of a training with its data."""
    if isinstance(film, BarHistory):
        data = _script_data(asdict(film))
        return Template(_read("bars.html")).substitute(
            title=escape(film.title), caption=mathematics(film.caption), data=data
        )
    data = {
        "steps": film.steps,
        "curves": film.curves,
        "start": film.start,
        "scenes": [
            {**scene, "shape": list(patterns.shape), "patterns": b64encode(patterns.numpy().tobytes()).decode()}
            for scene, patterns in zip(film.scenes, film.patterns, strict=True)
        ],
    }
    return Template(_read("viewer.html")).substitute(
        title=escape(film.title), caption=mathematics(film.caption), data=_script_data(data)
    )


def _live_panel(live: LivePanel) -> str:
    data = _script_data(panel_record(live))
    return Template(_read("live.html")).substitute(caption=mathematics(live.caption), data=data)


def _script_data(data: Any) -> str:
    """JSON for a script element, which an escaped "<" cannot close."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


Threshold = tuple[float | int | None, float | int | None]
"""Lower and upper threshold of a judged value; None for none."""

_SUBSCRIPT = re.compile(r"(?<!\w)([A-Za-z])_(?:\{([^{}<]+)\}|([A-Za-z0-9])(?!\w))")
_POWER = re.compile(r"(?<!\w)([A-Za-z])\^(\d)(?!\w)")


def mathematics(text: str) -> str:
    """Escaped text with its formulas typeset: subscripts such as x_t and x_{t+1}, R^2, and signs such as >=."""
    signed = escape(text).replace("&gt;=", "\u2265").replace("&lt;=", "\u2264")
    lowered = _SUBSCRIPT.sub(lambda m: f"<i>{m[1]}</i><sub>{(m[2] or m[3]).replace('-', chr(0x2212))}</sub>", signed)
    return _POWER.sub(r"<i>\1</i><sup>\2</sup>", lowered)


def _headline(claims: Sequence[Judgement], id: str) -> str:
    """The headline finding: the claim with this id, or else the first that is decided or at least measured."""
    order = sorted(
        (claim for claim in claims if claim.kind != "set-up"),
        key=lambda claim: (claim.id != id, claim.verdict not in _LEADS, claim.measured is None, claim.kind != "paper"),
    )
    if not order:
        return ""
    claim, count = order[0], len(order[0].seeds)
    lead = _LEADS.get(shown_verdict(claim), f"{verdict_in_words(claim).capitalize()}:")
    if lead == _FEW:
        lead = f"{lead} ({count} seed{'s' * (count != 1)}):"
    # A refuted or open sentence is the paper's, not ours.
    quoted = f"<q>{mathematics(claim.statement)}</q>" if claim.verdict != "supported" else mathematics(claim.statement)
    facts = [f"Measured: {measured_in_words(claim)}", claim.criterion, control_text(claim)]
    return f"<b>{escape(lead)}</b> {quoted}</p>\n<p class=note>{mathematics('; '.join(filter(None, facts)))}."


_FEW = "Too few seeds for a verdict"
_LEADS = {
    "supported": "Supported.",
    "refuted": "Refuted at this scale. The claim was:",
    "measured": _FEW,
}


def _gauge(claim: Judgement, threshold: Threshold | None) -> str:
    """A thermometer of value, interval, threshold and control, whose numbers stand beside it as text."""
    if claim.measured is None:
        return ""
    control = claim.control
    bounds = [bound for bound in threshold or () if bound is not None]
    of_control = [] if control is None or control.measured is None else [control.measured, *(control.interval or ())]
    numbers = [claim.measured, *(claim.interval or ()), *bounds, *of_control]
    low, high = floor(10 * min(0, *numbers)) / 10, ceil(10 * max(1, *numbers)) / 10

    def mark(kind: str, start: float | int, end: float | int) -> str:
        left, width = (start - low) / (high - low), (end - start) / (high - low)
        return f'<i class={kind} style="left:{100 * left:.4g}%;width:{100 * width:.4g}%"></i>'

    marks = []
    if bounds and threshold is not None:
        first, last = (edge if bound is None else bound for bound, edge in zip(threshold, (low, high), strict=True))
        marks += [mark("met", first, last), *(mark("bound", bound, bound) for bound in bounds)]
    marks += [mark("bar", *claim.interval)] if claim.interval else []
    marks += [mark("control", control.measured, control.measured)] if control and control.measured is not None else []
    marks += [mark("value", claim.measured, claim.measured)]
    ends = f"<small>{low:.3g}</small><small>{high:.3g}</small>"
    return f"<div class=gauge aria-hidden=true>{''.join(marks)}</div><div class=ends aria-hidden=true>{ends}</div>"


def _claim(
    claim: Judgement, figure: tuple[str, str] | None, cost: float | int | None, threshold: Threshold | None
) -> str:
    note = f"<p class=note>{mathematics(claim.note)}</p>" if claim.note else ""
    figure_link = f'<p class=note><a href="#{figure[0]}">Figure: {mathematics(figure[1])}</a></p>' if figure else ""
    facts = {
        "Where": claim.place,
        "Control": control_text(claim).removeprefix("Control: "),
        "Seeds": f"{', '.join(map(str, claim.seeds)) or 'none'} ({claim.population})",
        **further_notes(claim),
        "Cost": f"{cost:.0f} CPU-seconds of every job the claim depends on" if cost else "",
    }
    fact_list = "".join(f"<dt>{name}</dt><dd>{mathematics(fact)}</dd>" for name, fact in facts.items() if fact)
    control = f"<p class=note>{mathematics(control_text(claim))}</p>" if claim.control else ""
    exact = f'<p class=note title="{escape(claim.exact)}">exact</p>' if claim.exact else ""
    return f"""<tr class="{escape(shown_verdict(claim).replace(" ", "-"))}" id="{claim_anchor(claim.id)}">
<td class=verdict><span>{escape(verdict_in_words(claim))}</span></td>
<td><p class=statement>{mathematics(claim.statement)}</p><p class=note>Criterion: {mathematics(claim.criterion)}</p>
{control}{note}{figure_link}
<details><summary>{escape(claim.id)}: seeds and all numbers</summary>
<dl>{fact_list}{_details(claim.details)}</dl></details></td>
<td class=measured>{escape(measured_in_words(claim))}{exact}{_gauge(claim, threshold)}</td></tr>"""


def claim_anchor(id: str) -> str:
    """The anchor of a claim on the page of its run."""
    return "claim-" + re.sub(r"[^A-Za-z0-9-]+", "-", id)


def _details(details: Mapping[str, Any]) -> str:
    return "".join(
        f"<dt>{mathematics(name)}</dt><dd>{mathematics(_as_text(value))}</dd>" for name, value in details.items()
    )


def _as_text(value: Any) -> str:
    """Nested numbers as readable text."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_as_text(inner)}" for name, inner in value.items())
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _picture(name: str, picture: Picture) -> str:
    drawing = re.sub(r"^.*?(?=<svg)", "", picture.svg, flags=re.DOTALL)  # drop the XML prologue
    # Coordinates to a hundredth of a point: a fifth of the size of a page.
    drawing = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(?<![\d.])([1-9]\d*\.\d\d)\d+", r"\1", tag[0]), drawing)
    return f"""<figure id="{name}"><h3>{mathematics(picture.title)}</h3>
<div class=drawing role=img aria-label="{escape(picture.caption)}" tabindex=0>{drawing}</div>
<figcaption>{mathematics(picture.caption)}</figcaption></figure>"""
