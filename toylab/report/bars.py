"""Bars on the page of a run that change through training, one bar per name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BarHistory:
    """A number per name at every recorded step, as displayed on a report page with a slider over the steps.

    Attributes:
        title, caption: texts of the figure.
        names: of the bars.
        marked: names in another colour.
        unit: of the numbers.
        steps: optimiser step of each frame.
        scenes: for each title of a selectable scene, one row of numbers per frame.
    """

    title: str
    caption: str
    names: Sequence[str]
    marked: Sequence[str] = ()
    unit: str
    steps: list[int]
    scenes: Mapping[str, list[list[float]]]
