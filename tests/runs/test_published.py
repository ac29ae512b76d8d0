"""The published scoreboard: the README, the list of claims and the page on abstracts follow it."""

import re
from pathlib import Path

import pytest

from tests.lessons.test_numbers import CLAIMS, strangers
from toylab.runs import registry, scoreboard

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_carries_the_summary_of_the_published_board_and_its_claims_stand_beside_the_notebooks():
    held = scoreboard.published_scoreboard()
    (carried,) = re.findall(r"<!-- scoreboard -->\n(.*?)\n<!-- end -->", README, flags=re.DOTALL)
    assert carried.strip() == scoreboard.summary_markdown(held)
    claims = (ROOT / "notebooks" / "CLAIMS.md").read_text(encoding="utf-8")
    assert claims.endswith(f"\n\n{scoreboard.board_markdown(held)}\n")


def test_the_tables_of_results_are_those_of_the_published_board():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    carried = dict(re.findall(r"<!-- ([\w-]+) -->\n(\|.*?)\n<!-- end -->", text, flags=re.DOTALL))
    assert carried == {one.study: scoreboard.results_markdown(one) for one in scoreboard.published_scoreboard()}


def test_numbers_in_the_prose_of_results_are_those_of_the_claims_that_it_names():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    prose = re.sub(r"<!-- [\w-]+ -->.*?<!-- end -->|\*\*Earlier measurements.*?(?=\n## )", "", text, flags=re.DOTALL)
    for paragraph in re.split(r"\n\n|\n- ", prose):
        named = [CLAIMS[name] for name in re.findall(r"`([\w-]+)`", paragraph) if name in CLAIMS]
        assert not (named and strangers(paragraph, "\n".join(named))), paragraph


def test_the_statements_of_the_abstracts_have_the_verdicts_of_the_published_board():
    text = (ROOT / "docs" / "abstracts.md").read_text(encoding="utf-8")
    words = dict(re.findall(r"`([\w-]+)`: ([a-z]+(?: run)?)", text))
    board = {claim.id: claim.verdict for one in scoreboard.published_scoreboard() for claim in one.claims}
    assert {name: board.get(name) for name in words} == words
    assert "not run" not in words.values()


def test_the_published_board_speaks_of_claims_that_there_are_from_ten_seeds():
    for one in scoreboard.published_scoreboard():
        kind = registry.load_study(one.study).STUDY
        assert {claim.id for claim in one.claims} <= {claim.id for claim in kind.default().claims()}
        assert one.seeds >= 10


def test_the_published_board_decides_nothing_from_fewer_than_six_seeds_or_without_an_interval():
    for one in scoreboard.published_scoreboard():
        for claim in one.claims:
            if claim.verdict in ("supported", "refuted"):
                assert len(claim.seeds) >= 6, claim.id
                assert claim.interval is not None, claim.id
                assert claim.control is None or claim.control.misses, claim.id
            else:
                assert claim.family == "", claim.id


def test_a_standing_of_the_published_board_goes_by_the_name_of_its_study():
    assert scoreboard.published_scoreboard("iteration-head").study == "iteration-head"
    with pytest.raises(ValueError, match="iteration-head"):
        scoreboard.published_scoreboard("iteration-haed")
