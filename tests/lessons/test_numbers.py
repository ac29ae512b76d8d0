"""A decimal number in the prose of a lesson comes from the code or outputs of its section, or from a claim it names."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from tests.lessons.notebooks import NOTEBOOKS, cells

STANDINGS = json.loads(files("toylab.report").joinpath("scoreboard.json").read_text(encoding="utf-8"))
CLAIMS: dict[str, str] = {}
"""The records of the claims by id, which two studies may share."""
for claim in (claim for study in STANDINGS for claim in study["claims"]):
    CLAIMS[claim["id"]] = CLAIMS.get(claim["id"], "") + json.dumps(claim)
SKIPPED = re.compile(r"```.*?```|\$[^$]+\$|arXiv [\d.]+|\d+ % interval", re.DOTALL)  # solutions, formulas, names
DECIMAL = re.compile(r"(?<![\w.])(\d*\.\d+|\d+(?= %))( %)?")
NUMBER = re.compile(r"\d*\.?\d+(?:e[+-]?\d+)?")


def sections(path: Path) -> Iterator[tuple[str, str]]:
    """Prose of each section, and its code with the outputs; a printed scoreboard has too many numbers to count."""
    prose, programme = "", ""
    for cell in cells(path):
        if cell.cell_type == "code":
            shown = [one.get("text", "") + one.get("data", {}).get("text/plain", "") for one in cell.outputs]
            programme += "\n".join([cell.source, *shown * ("print(published_scoreboard" not in cell.source), ""])
            continue
        first, *others = re.split(r"^(?=## )", cell.source, flags=re.MULTILINE)
        prose += first + "\n\n"
        for other in others:
            yield prose, programme
            prose, programme = other + "\n\n", ""
    yield prose, programme


def strangers(prose: str, programme: str) -> list[str]:
    """Sentences with a number from elsewhere; those that cite a paper may have any."""
    found = []
    for sentence in re.split(r"(?<=[.?!:;|])\s+|\n\n|\n- ", SKIPPED.sub("", prose)):
        if re.search(r"paper|et al\.", sentence):
            continue
        claims = [CLAIMS.get(name, "") for name in re.findall(r"`([\w-]+)`", sentence)]
        known = [float(number) for number in NUMBER.findall("\n".join([programme, *claims]))]
        for text, percent in DECIMAL.findall(sentence):
            digits, wanted = len(text.partition(".")[2]), float(text)
            values = [value * scale for value in known for scale in ((1, 100) if percent else (1,))]
            if wanted not in [round(value, digits) for value in values]:
                found.append(f"{text}{percent}: {sentence}")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_numbers_in_the_prose_of_a_lesson_are_its_results(path):
    assert not [found for section in sections(path) for found in strangers(*section)]


@pytest.mark.parametrize(("prose", "wrong"), [("It is .62.", 1), ("Of 61 %.", 1), ("It is .54 or 54 %, $.62$.", 0)])
def test_a_wrong_number_is_found(prose, wrong):
    assert len(strangers(prose, "tokens 0.543")) == wrong
