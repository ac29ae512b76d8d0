"""Laws of claims: a verdict follows from bar and numbers alone, and nothing is lost on the way to a file or a table."""

import io
import json
import math
import re
from dataclasses import asdict
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import ToylabError, takes_colour
from toylab.verdicts.judgement import (
    Judgement,
    Verdict,
    claims_markdown,
    claims_table,
    count_verdicts,
    mean,
    numbers,
    or_never,
    over_seeds,
    read_claims,
    write_claims,
)
from toylab.verdicts.intervals import bootstrap, wilson

TEXTS = {"paper": "section 4", "statement": "Heads form.", "bar": "mean >= .5"}
BY_SEED = st.dictionaries(st.integers(0, 50), st.floats(0, 1), min_size=2, max_size=8)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=300)
NUMBERS = st.floats(-1e12, 1e12)


INTERVALS = st.none() | st.tuples(NUMBERS, NUMBERS)
FIELDS = st.fixed_dictionaries(
    {
        "id": st.text("abcdefgh-", min_size=1, max_size=18),
        "paper": WORDS,
        "statement": WORDS,
        "bar": WORDS,
        "measured": st.none() | NUMBERS,
        "interval": INTERVALS,
        "seeds": st.lists(st.integers(0, 1000), max_size=20).map(tuple),
        "verdict": st.sampled_from(get_args(Verdict)),
        "details": st.dictionaries(WORDS, NUMBERS | st.none() | st.booleans() | WORDS, max_size=3),
        "note": WORDS,
    }
)
"""Those of a claim, which the tests then build (beartype's own dice upset hypothesis while it draws)."""


def claim_of(**fields) -> Judgement:
    plain = {"id": "id", "measured": 0.5, "interval": None, "seeds": (0,), "verdict": "holds", **TEXTS}
    return Judgement(**{**plain, **fields})


# Verdicts ------------------------------------------------------------------------------------------------------------


@given(BY_SEED, st.floats(0, 1))
def test_without_a_share_the_mean_is_judged(values, bar):
    claim = over_seeds("id", values, lambda value: value >= bar, **TEXTS)
    mean = sum(values.values()) / len(values)
    assert claim.verdict == ("holds" if mean >= bar else "fails")
    assert claim.measured == pytest.approx(mean, abs=5.1e-5)
    assert claim.interval == pytest.approx(bootstrap(list(values.values())), abs=5.1e-5)
    assert claim.seeds == tuple(values)


@given(BY_SEED, st.floats(0, 1), st.floats(0.01, 1))
def test_with_a_share_the_seeds_that_pass_are_counted(values, bar, share):
    claim = over_seeds("id", values, lambda value: value >= bar, share=share, **TEXTS)
    passed = len([value for value in values.values() if value >= bar])
    assert claim.verdict == ("holds" if passed / len(values) >= share else "fails")
    assert claim.measured == pytest.approx(passed / len(values), abs=5.1e-5)
    assert claim.interval == pytest.approx(wilson(passed, len(values)), abs=5.1e-5)


@given(st.integers(0, 50), st.floats(0, 1), st.none() | st.floats(0.01, 1), st.booleans(), st.booleans())
def test_one_seed_is_measured_and_decides_nothing(seed, value, share, surely, right):
    claim = over_seeds("id", {seed: value}, lambda value: right, share=share, surely=surely, **TEXTS)
    assert (claim.verdict, claim.interval, claim.seeds) == ("open", None, (seed,))
    assert claim.measured == pytest.approx(value if share is None else float(right), abs=5.1e-5)
    assert claim.note


@given(st.lists(st.floats(0.6, 1), min_size=2, max_size=12))
def test_to_be_sure_takes_six_seeds(values):
    claim = over_seeds("id", dict(enumerate(values)), lambda value: value > 0.5, surely=True, **TEXTS)
    assert claim.verdict == ("holds" if len(values) >= 6 else "open")
    assert claim.interval == pytest.approx(bootstrap(values), abs=5.1e-5)


def test_an_interval_beyond_the_bar_is_not_sure():
    values = dict(enumerate([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    plain, sure = (over_seeds("id", values, lambda v: v > 0.1, surely=surely, **TEXTS) for surely in (False, True))
    assert (plain.verdict, sure.verdict) == ("holds", "fails")


@given(st.dictionaries(st.integers(0, 50), st.floats(0, 1), max_size=8), st.none() | st.floats(0.01, 1))
def test_a_withdrawn_claim_keeps_what_was_measured_and_says_why(values, share):
    def claim(**more) -> Judgement:
        return over_seeds("id", values, lambda value: value >= 0.5, share=share, note="Read it so.", **TEXTS, **more)

    plain, withdrawn = claim(), claim(withdrawn="a random model meets the bar", open_because="it is not known")
    assert withdrawn.verdict == "withdrawn"
    assert withdrawn.note == "a random model meets the bar; Read it so."
    assert asdict(withdrawn) == asdict(plain) | {"verdict": "withdrawn", "note": withdrawn.note}
    for text in (claims_table([withdrawn]), claims_markdown([withdrawn])):
        assert "a random model meets the bar" in text
    assert count_verdicts([withdrawn]) == {"holds": 0, "fails": 0, "open": 0, "withdrawn": 1}


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused_with_claim_and_seed(wrong):
    with pytest.raises(ToylabError, match=r"^head: seed 7 gives .*: must be a finite number"):
        over_seeds("head", {3: 0.5, 7: wrong}, lambda value: True, **TEXTS)


def test_a_mean_of_nothing_is_not_measured():
    details = {"a": mean([]), "b": {"c": [mean([]), mean([1.0, 2.0])]}, "d": or_never(None), "e": or_never(40)}
    found = over_seeds("id", {}, lambda value: True, details=details, **TEXTS).details
    assert found == {"by seed": {}, "a": None, "b": {"c": [None, 1.5]}, "d": "never", "e": 40}


def test_four_seeds_of_five_are_a_share_of_eight_tenths():
    values = {seed: float(seed != 2) for seed in range(5)}
    assert over_seeds("id", values, lambda v: v == 1, share=0.8, **TEXTS).verdict == "holds"
    assert over_seeds("id", {**values, 3: 0.0}, lambda v: v == 1, share=0.8, **TEXTS).verdict == "fails"


@pytest.mark.parametrize("share", [None, 0.8])
def test_what_no_seed_measured_stays_open(share):
    def never(value: float) -> bool:
        raise AssertionError("there is no value to judge")

    claim = over_seeds("id", {}, never, share=share, **TEXTS)
    assert (claim.verdict, claim.measured, claim.interval, claim.seeds) == ("open", None, None, ())


@given(BY_SEED)
def test_the_number_of_every_seed_is_kept_beside_other_details(values):
    claim = over_seeds("id", values, lambda value: True, **TEXTS, details={"more": 1}, note="Read it so.")
    assert claim.details["more"] == 1
    assert claim.details["by seed"] == {str(seed): pytest.approx(v, abs=5.1e-5) for seed, v in values.items()}
    assert {name: getattr(claim, name) for name in TEXTS} == TEXTS
    assert claim.note == "Read it so."


# The table -----------------------------------------------------------------------------------------------------------


@given(st.lists(FIELDS, max_size=4))
def test_no_line_of_the_table_is_longer_than_eighty_columns(held):
    assert all(len(line) <= 80 for line in claims_table([Judgement(**fields) for fields in held]).splitlines())


@pytest.mark.parametrize("word", ["x", "ab", "longer", "x" * 300])
def test_lines_of_the_table_are_filled_to_the_last_column(word):
    words = " ".join([word] * 300)
    lengths = {
        len(line) for line in claims_table([claim_of(statement=words), claim_of(statement=f"a {words}")]).splitlines()
    }
    assert 80 - len(word) <= max(lengths) <= 80


@given(FIELDS)
def test_the_table_says_all_words_of_statement_bar_and_note(fields):
    claim = Judgement(**fields)
    joined = "".join(claims_table([claim]).split())
    for text in (claim.statement, claim.bar, claim.note):
        assert "".join(text.split()) in joined
    assert claim.id in joined
    assert claim.verdict.upper() in joined


def test_the_table_by_hand():
    claim = over_seeds("head", {0: 1.0, 1: 0.5}, lambda v: v > 0.7, **TEXTS, note="A note.")
    assert claims_table([claim]) == (
        "HOLDS  head                 0.75 [0.5, 1]                 2 seeds\n"
        "       Heads form.\n"
        "       Bar: mean >= .5\n"
        "       A note."
    )


@given(FIELDS, st.floats(0, 1e5))
def test_cost_and_colour_change_nothing_else(fields, cost):
    claim = Judgement(**fields)
    plain, priced = claims_table([claim]), claims_table([claim], costs={claim.id: cost}, coloured=True)
    assert re.sub(r"\x1b\[\d+m", "", priced).replace(f"{cost:>7.0f} CPU-s", "", 1).splitlines() == [
        line.rstrip() for line in plain.splitlines()
    ]
    assert priced.count("\x1b[") == 2
    assert ("CPU-s" in priced.replace(plain, "")) == (claim.measured is not None or "CPU-s" in plain)


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert takes_colour(Terminal())
    assert not takes_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not takes_colour(Terminal())
    monkeypatch.setenv("NO_COLOR", "")  # counts as not set
    assert takes_colour(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not takes_colour(Terminal())


def test_numbers_say_what_was_measured():
    claim = over_seeds("head", {}, lambda v: True, **TEXTS)
    assert numbers(claim) == "not measured"
    assert "0 seeds" in claims_table([claim])
    one = claim_of(measured=0.123456, seeds=(4,))
    assert numbers(one) == "0.123"
    assert "1 seed" in claims_table([one])
    assert "1 seeds" not in claims_table([one])


@given(st.lists(FIELDS, max_size=4))
def test_the_markdown_table_has_a_row_a_claim_and_all_of_its_cells(drawn):
    held = [
        Judgement(**{name: v.replace("\\", "/") if isinstance(v, str) else v for name, v in f.items()}) for f in drawn
    ]
    lines = claims_markdown(held).split("\n")
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert rows[1] == ["---"] * len(rows[0])
    for row, c in zip(rows[2:], held, strict=True):
        assert [row[0], *row[2:]] == [c.verdict, c.bar.strip(), numbers(c), str(len(c.seeds))]
        assert row[1].startswith(c.statement.strip())
        assert c.note.strip() in row[1] or c.verdict in ("holds", "fails")


# The file ------------------------------------------------------------------------------------------------------------


@given(st.lists(FIELDS, max_size=4))
def test_claims_come_back_from_their_file_as_they_were(tmp_path_factory, drawn):
    held = [Judgement(**fields) for fields in drawn]
    path = tmp_path_factory.mktemp("claims") / "claims.json"
    write_claims(path, held)
    assert read_claims(path) == held


DAMAGED = {
    "cut short": '[{"id": "head", "paper"',
    "empty": "",
    "not a list": '{"id": "head"}',
    "of other things": "[1, 2]",
    "without some fields": '[{"id": "head"}]',
    "of the right fields and the wrong things": json.dumps(
        [dict.fromkeys(["id", "paper", "statement", "bar", "measured", "interval", "verdict", "details", "note"]) | {
            "seeds": 3
        }]
    ),
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_by_name_and_with_a_remedy(tmp_path, content):
    path = tmp_path / "claims.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"claims\.json: .*(again|report)"):
        read_claims(path)


def test_a_missing_file_is_refused_by_name_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"claims\.json: there is no such file; .+"):
        read_claims(tmp_path / "claims.json")
