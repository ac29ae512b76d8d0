"""The page of a run: verdicts, figures and settings in one HTML file without external resources."""

from __future__ import annotations

import itertools
import json
import re
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
from toylab.report.canvas import set_narrow, to_svg, whole_figure
from toylab.report.inline import inline_svg
from toylab.report.live import LivePanel, compressed, panel_record
from toylab.report.viewer import history_record
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

    Claims that refer to the figure by its title are added automatically. `narrow` is the figure for narrow screens.
    """

    title: str
    caption: str
    svg: str
    claims: tuple[str, ...] = ()
    narrow: str = ""

    @property
    def name(self) -> str:
        """Name of the figure's file and anchor; `file_names` makes names unique."""
        name = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:100]
        # The title may contain none of these letters, or collide with the anchors of claims, panels and headings.
        return f"figure-{name}".strip("-") if re.match("$|claim|figures-|reproduce-|viewer|live", name) else name


def picture(title: str, caption: str, drawn: Figure | Axes) -> Picture:
    """A `Picture` from a matplotlib figure or axes, which is then set again for narrow screens."""
    figure = whole_figure(drawn)
    svg = to_svg(figure)
    return Picture(title, caption, svg, narrow=to_svg(figure, "narrow") if set_narrow(figure) else "")


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

    leads = film is None and live is None  # the first figure, whose heading then follows that of the page
    drawn = [
        _picture(name, item, "h2" if leads and item is pictures[0] else "h3")
        for name, item in zip(names, pictures, strict=True)
    ]
    panels = [
        *([] if film is None else [_film_section(film)]),
        *([] if live is None else [live_section(live.caption)]),
    ]
    data = "" if film is None else _data_element("viewer", _film_record(film))
    parts = {
        "headline": _headline(claims, "" if live is None else live.claim),
        # Without a viewer, the first screen shows the first figure.
        "panels": "\n".join(panels or drawn[:1]),
        "introduction": mathematics(introduction),
        "seeds": "\n".join(f"<p class=note>{escape(note)}</p>" for note in (seeds, sham_summary(claims)) if note),
        "summary": escape(verdict_counts(claims)),
        "claims": "\n".join(
            Template(read_source("claims.html")).substitute(
                title=kind,
                number=len(of_kind),
                open=" open" if of_kind[0].kind == "paper" else "",
                interval=interval_in_words(claims),
                rows=rows(of_kind),
            )
            for kind, of_kind in by_kind(claims).items()
        ),
        "pictures": "\n".join(drawn if panels else drawn[1:]),
        "command": escape(command),
        "cost": escape(cost),
        "settings": escape(json.dumps(settings, indent=1, ensure_ascii=False)),
        "scripts": _scripts(film, live),
    }
    if live is not None:
        room = PAGE_SIZE - len(fill_template("page.html", escape(title), **parts, data=data).encode())
        data += _data_element("live", panel_record(live, room))
    return fill_template("page.html", escape(title), **parts, data=data)


PAGE_SIZE = 1_450_000
"""Most bytes of a page: models of the live panel that would not fit are left out, but for the first."""


def script_element(*names: str, call: str = "") -> str:
    """The script element with these scripts and a last line; empty without scripts."""
    code = "\n".join([*map(read_source, names), call])
    return f"<script>\n{code}\n</script>" if names else ""


def fill_template(name: str, title: str, **parts: str) -> str:
    """A complete page from a template; `title` and `parts` are HTML."""
    main = Template(read_source(name)).substitute(title=title, key=read_source("key.html"), **parts)
    return Template(read_source("frame.html")).substitute(title=title, style=read_source("page.css"), main=main)


def read_source(name: str) -> str:
    """The text of a file of this package: a template, a style or a script."""
    return files("toylab.report").joinpath(name).read_text(encoding="utf-8")


def viewer_section(title: str, caption: str, name: str = "viewer.html") -> str:
    """The elements of a viewer of attention patterns or (`bars.html`) of bars, as HTML."""
    return Template(read_source(name)).substitute(title=escape(title), caption=mathematics(caption))


def _film_section(film: HistoryPage | BarHistory) -> str:
    return viewer_section(film.title, film.caption, "bars.html" if isinstance(film, BarHistory) else "viewer.html")


def _film_record(film: HistoryPage | BarHistory) -> dict[str, Any]:
    return asdict(film) if isinstance(film, BarHistory) else history_record(film)


def live_section(caption: str) -> str:
    """The elements of the live panel, as HTML."""
    return Template(read_source("live.html")).substitute(caption=mathematics(caption))


def _data_element(panel: str, data: Any) -> str:
    return f'<script type="application/json" id="{panel}-data">"{compressed(data)}"</script>\n'


SCRIPTS = {
    "toyViewer": ("heatmap.js", "viewer.js"),
    "toyBars": ("heatmap.js", "bars.js"),
    "toyLive": ("heatmap.js", "model.js", "live.js"),
}
"""By the function that starts a panel, its scripts in the order in which they are read."""


def _scripts(film: HistoryPage | BarHistory | None, live: LivePanel | None) -> str:
    panels = {} if film is None else {"viewer": "toyBars" if isinstance(film, BarHistory) else "toyViewer"}
    panels |= {} if live is None else {"live": "toyLive"}
    names = dict.fromkeys(script for function in panels.values() for script in SCRIPTS[function])
    calls = ", ".join(f"{section}: {function}" for section, function in panels.items())
    return script_element(*names, call=f"toyPage.start({{ {calls} }});")


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
    figure_link = f'<p class=note><a href="#{figure[0]}">Figure: {mathematics(figure[1])}</a></p>' if figure else ""
    return f"""<tr class="{verdict_class(claim)}" id="{claim_anchor(claim.id)}">
<td class=verdict><span>{escape(verdict_in_words(claim))}</span></td>
<td><p class=statement>{mathematics(claim.statement)}</p>{claim_notes(claim)}{figure_link}
<details><summary>{escape(claim.id)}: seeds and all numbers</summary>
<dl>{claim_facts(claim, cost)}{_details(claim.details)}</dl></details></td>
<td class=measured>{measured_with_gauge(claim, threshold)}</td></tr>"""


def verdict_class(claim: Judgement) -> str:
    """The class of a claim's row, which sets colour and sign of its verdict."""
    return escape(shown_verdict(claim).replace(" ", "-"))


def claim_notes(claim: Judgement) -> str:
    """Criterion, control and note of a claim, one paragraph each."""
    notes = (f"Criterion: {claim.criterion}", control_text(claim) if claim.control else "", claim.note)
    return "\n".join(f"<p class=note>{mathematics(note)}</p>" for note in notes if note)


def measured_with_gauge(claim: Judgement, threshold: Threshold | None) -> str:
    """The measured value with its interval, as text and on a thermometer."""
    exact = f'<p class=note title="{escape(claim.exact)}">exact</p>' if claim.exact else ""
    return escape(measured_in_words(claim)) + exact + _gauge(claim, threshold)


def claim_facts(claim: Judgement, cost: float | int | None) -> str:
    """Place, control, seeds, remarks and cost of a claim, as terms and definitions of a list."""
    facts = {
        "Where": claim.place,
        "Control": control_text(claim).removeprefix("Control: "),
        "Seeds": f"{', '.join(map(str, claim.seeds)) or 'none'} ({claim.population})",
        **further_notes(claim),
        "Cost": f"{cost:.0f} CPU-seconds of every job the claim depends on" if cost else "",
    }
    return "".join(f"<dt>{name}</dt><dd>{mathematics(fact)}</dd>" for name, fact in facts.items() if fact)


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


def _picture(name: str, picture: Picture, heading: str) -> str:
    forms = {" wide": picture.svg, " narrow": picture.narrow} if picture.narrow else {"": picture.svg}
    attributes = f'role=img aria-label="{escape(picture.caption)}" tabindex=0'
    drawings = "\n".join(
        f'<div class="drawing{form}" {attributes}>{inline_svg(svg)}</div>' for form, svg in forms.items()
    )
    return f"""<figure id="{name}"><{heading}>{mathematics(picture.title)}</{heading}>
{drawings}
<figcaption>{mathematics(picture.caption)}</figcaption></figure>"""
