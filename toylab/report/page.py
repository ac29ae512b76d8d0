"""The page of a run: verdicts, figures and settings in one HTML file without external resources."""

from __future__ import annotations

import itertools
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toylab.report.canvas import to_svg, whole_figure
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
        # The title may contain none of these letters, or collide with the anchors of claims and of the viewer.
        return f"figure-{name}".strip("-") if re.match("$|claim-|viewer", name) else name


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
    film: HistoryPage | None = None,
    costs: Mapping[str, float | int] | None = None,
) -> str:
    """The page as HTML text; all inserted text is escaped.

    Args:
        settings: record of the run.
        command: command that reruns it.
        cost: total cost, machine and date, in words.
        seeds: seeds with their purposes, in words.
        film: attention history for the viewer, if any.
        costs: CPU-seconds of every job the claim depends on, by claim id.
    """
    names = file_names(pictures)
    figure_of = {id: (name, item.title) for name, item in zip(names, pictures, strict=True) for id in item.claims}
    return fill_template(
        "page.html",
        title=escape(title),
        introduction=escape(introduction),
        seeds="\n".join(f"<p class=note>{escape(note)}</p>" for note in (seeds, sham_summary(claims)) if note),
        short="\n".join(map(_statements, _VERDICT_TITLES, (claims, claims))),
        summary=escape(verdict_counts(claims)),
        interval=interval_in_words(claims),
        claims="\n".join(
            f'<tbody><tr class=kind><th colspan=3 scope="rowgroup">{title}</th></tr>\n'
            + "\n".join(_claim(claim, figure_of.get(claim.id), (costs or {}).get(claim.id)) for claim in of_kind)
            + "\n</tbody>"
            for title, of_kind in by_kind(claims).items()
        ),
        pictures="\n".join(map(_picture, names, pictures)),
        film="" if film is None else _attention_viewer(film),
        command=escape(command),
        cost=escape(cost),
        settings=escape(json.dumps(settings, indent=1, ensure_ascii=False)),
    )


def fill_template(name: str, title: str, **parts: str) -> str:
    """A complete page from a template; `title` and `parts` are HTML."""
    main = Template(_read(name)).substitute(title=title, **parts)
    return Template(_read("frame.html")).substitute(title=title, style=_read("page.css"), main=main)


def _read(name: str) -> str:
    return files("toylab.report").joinpath(name).read_text(encoding="utf-8")


def _attention_viewer(film: HistoryPage) -> str:
    """The attention-history viewer with its data and script."""
    data = {
        "steps": film.steps,
        "curves": film.curves,
        "start": film.start,
        "scenes": [
            {**scene, "shape": list(patterns.shape), "patterns": b64encode(patterns.numpy().tobytes()).decode()}
            for scene, patterns in zip(film.scenes, film.patterns, strict=True)
        ],
    }
    # Escaping "<" prevents data from closing the script element.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return Template(_read("viewer.html")).substitute(
        title=escape(film.title), caption=escape(film.caption), data=text, script=_read("viewer.js")
    )


def _statements(verdict: str, claims: Sequence[Judgement]) -> str:
    """A paragraph of the paper's claims with this verdict."""
    statements = " ".join(
        escape(claim.statement) for claim in claims if claim.verdict == verdict and claim.kind == "paper"
    )
    return f"<p><b>{_VERDICT_TITLES[verdict]}</b> {statements}</p>" if statements else ""


_VERDICT_TITLES = {"supported": "Supported here.", "refuted": "Refuted at this scale."}


def _claim(claim: Judgement, figure: tuple[str, str] | None, cost: float | int | None) -> str:
    note = f"<p class=note>{escape(claim.note)}</p>" if claim.note else ""
    figure_link = f'<p class=note><a href="#{figure[0]}">Figure: {escape(figure[1])}</a></p>' if figure else ""
    facts = {
        "Criterion": claim.criterion,
        "Where": claim.place,
        "Control": control_text(claim).removeprefix("Control: "),
        "Seeds": f"{', '.join(map(str, claim.seeds)) or 'none'} ({claim.population})",
        **further_notes(claim),
        "Cost": f"{cost:.0f} CPU-seconds of every job the claim depends on" if cost else "",
    }
    fact_list = "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items() if fact)
    control = f"<p class=note>{escape(control_text(claim))}</p>" if claim.control else ""
    return f"""<tr class="{escape(shown_verdict(claim).replace(" ", "-"))}" id="{claim_anchor(claim.id)}">
<td class=verdict><span>{escape(verdict_in_words(claim))}</span></td>
<td><p class=statement>{escape(claim.statement)}</p>{control}{note}{figure_link}
<details><summary>{escape(claim.id)}: criterion, seeds and all numbers</summary>
<dl>{fact_list}{_details(claim.details)}</dl></details></td>
<td class=measured>{escape(measured_in_words(claim))}</td></tr>"""


def claim_anchor(id: str) -> str:
    """The anchor of a claim on the page of its run."""
    return "claim-" + re.sub(r"[^A-Za-z0-9-]+", "-", id)


def _details(details: Mapping[str, Any]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(_as_text(value))}</dd>" for name, value in details.items())


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
    return f"""<figure id="{name}"><h3>{escape(picture.title)}</h3>
<div class=drawing role=img aria-label="{escape(picture.caption)}">{drawing}</div>
<figcaption>{escape(picture.caption)}</figcaption></figure>"""
