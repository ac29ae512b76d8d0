"""Laws of judgements as text and as files: nothing is lost on the way, and fewer than six seeds get no verdict."""

import io
import json
import re
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from toylab.console import supports_colour
from toylab.verdicts.judgement import (
    KINDS_IN_WORDS,
    ControlJudgement,
    Judgement,
    Verdict,
    by_kind,
    claims_markdown,
    claims_table,
    control_text,
    count_verdicts,
    measured,
    measured_in_words,
    nan_mean,
    or_never,
    read_claims,
    shown_verdict,
    threshold,
    write_claims,
)

TEXTS = {"place": "section 4", "statement": "Heads form.", "criterion": "median >= .5"}
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=300)
NUMBERS = st.floats(-1e12, 1e12)
INTERVALS = st.none() | st.tuples(NUMBERS, NUMBERS)
CONTROLS = st.fixed_dictionaries(
    {
        "what": WORDS,
        "measured": st.none() | NUMBERS,
        "interval": INTERVALS,
        "misses": st.none() | st.booleans(),
    }
)
FIELDS = st.fixed_dictionaries(
    {
        "id": st.text("abcdefgh-", min_size=1, max_size=18),
        "kind": st.sampled_from([*KINDS_IN_WORDS]),
        "place": WORDS,
        "statement": WORDS,
        "criterion": WORDS,
        "measured": st.none() | NUMBERS,
        "interval": INTERVALS,
        "seeds": st.lists(st.integers(0, 1000), max_size=20).map(tuple),
        "verdict": st.sampled_from(get_args(Verdict)),
        "control": st.none() | CONTROLS,
        "uncontrolled": WORDS,
        "details": st.dictionaries(WORDS, NUMBERS | st.none() | st.booleans() | WORDS, max_size=3),
        "note": WORDS,
    }
)
"""Those of a claim, which the tests then build (beartype's own dice upset hypothesis while it draws)."""


def made(fields: dict) -> Judgement:
    control = fields["control"] and ControlJudgement(**fields["control"])
    return Judgement(**fields | {"control": control})


def claim_of(**fields) -> Judgement:
    seeds = tuple(range(6))
    plain = {"id": "id", "measured": 0.5, "interval": None, "seeds": seeds, "verdict": "supported", **TEXTS}
    return Judgement(**plain | fields)


def test_a_mean_of_nothing_is_no_number_and_what_never_happened_says_so():
    assert nan_mean([]) != nan_mean([])
    assert (nan_mean([1.0, 2.0]), or_never(None), or_never(40)) == (1.5, "never", 40)
    assert (threshold(0.25, 0.06), threshold(1 / 7, 0.06)) == (0.31, 0.2)


def test_a_measurement_may_be_zero_but_not_none():
    assert (measured(0.0), measured([])) == (0.0, [])
    with pytest.raises(TypeError, match="not measured"):
        measured(None)


@given(st.lists(FIELDS, max_size=6))
def test_verdicts_are_counted_without_checks_of_the_set_up(drawn):
    held = [made(fields) for fields in drawn]
    counts = count_verdicts(held)
    assert tuple(counts) == get_args(Verdict)
    assert sum(counts.values()) == sum(one.kind != "set-up" for one in held)
    assert [one for of_kind in by_kind(held).values() for one in of_kind] == sorted(
        held, key=lambda one: [*KINDS_IN_WORDS].index(one.kind)
    )


def test_measurements_of_few_seeds_stand_without_a_verdict():
    few = claim_of(verdict="undecided", seeds=(0, 1))
    assert shown_verdict(few) == "measured"
    assert shown_verdict(replace(few, seeds=tuple(range(6)))) == "undecided"
    assert shown_verdict(claim_of(verdict="not run", seeds=(), measured=None)) == "not run"
    assert "UNDECIDED" not in claims_table([few])


# The table -----------------------------------------------------------------------------------------------------------


@fewer(0.3)
@given(st.lists(FIELDS, max_size=4))
def test_no_line_of_the_table_is_longer_than_eighty_columns(held):
    assert all(len(line) <= 80 for line in claims_table([made(fields) for fields in held]).splitlines())


@pytest.mark.parametrize("word", ["x", "ab", "longer", "x" * 300])
def test_lines_of_the_table_are_filled_to_the_last_column(word):
    words = " ".join([word] * 300)
    lengths = {
        len(line) for line in claims_table([claim_of(statement=words), claim_of(statement=f"a {words}")]).splitlines()
    }
    assert 80 - len(word) <= max(lengths) <= 80


@given(FIELDS)
def test_the_table_says_all_words_of_statement_criterion_control_and_note(fields):
    claim = made(fields)
    joined = "".join(claims_table([claim]).split())
    for text in (claim.statement, claim.criterion, control_text(claim), claim.note):
        assert "".join(text.split()) in joined
    assert claim.id in joined
    assert shown_verdict(claim).upper().replace(" ", "") in joined


def test_the_table_by_hand():
    control = ControlJudgement(what="random weights", measured=0.1, interval=(0.0, 0.2), misses=True)
    claim = claim_of(id="head", measured=0.75, interval=(0.5, 1.0), control=control, note="A note.")
    own = claim_of(id="mine", kind="own", verdict="undecided", uncontrolled="a rank has none")
    assert claims_table([own, claim]) == (
        "Claims of the paper:\n"
        "SUPPORTED head                     0.75 [0.5, 1]             6 seeds\n"
        "          Heads form.\n"
        "          Criterion: median >= .5\n"
        "          Control: random weights, 0.1 [0, 0.2]\n"
        "          A note.\n\n"
        "Our own questions:\n"
        "UNDECIDED mine                     0.5                       6 seeds\n"
        "          Heads form.\n"
        "          Criterion: median >= .5\n"
        "          No control: a rank has none"
    )


@given(FIELDS, st.floats(0, 1e5))
def test_cost_and_colour_change_nothing_else(fields, cost):
    claim = made(fields)
    plain, priced = claims_table([claim]), claims_table([claim], costs={claim.id: cost}, coloured=True)
    assert re.sub(r"\x1b\[\d+m", "", priced).replace(f"{cost:>6.0f} CPU-s", "", 1).splitlines() == [
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
    assert supports_colour(Terminal())
    assert not supports_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not supports_colour(Terminal())
    monkeypatch.setenv("NO_COLOR", "")  # counts as not set
    assert supports_colour(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not supports_colour(Terminal())


def test_numbers_say_what_was_measured():
    claim = claim_of(measured=None, seeds=())
    assert measured_in_words(claim) == "not measured"
    assert "0 seeds" in claims_table([claim])
    one = claim_of(measured=0.123456, seeds=(4,))
    assert measured_in_words(one) == "0.123"
    assert "1 seed" in claims_table([one])
    assert "1 seeds" not in claims_table([one])


@given(st.lists(FIELDS, max_size=4))
def test_the_markdown_tables_have_a_row_a_claim_and_all_of_its_cells(drawn):
    held = [made(fields) for fields in drawn]
    held = [replace(one, **{n: getattr(one, n).replace("\\", "/") for n in ("statement", "criterion")}) for one in held]
    tables = claims_markdown(held).split("\n\n")[1::2]
    for table, of_kind in zip(tables, by_kind(held).values(), strict=True):
        rows = [
            [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in table.split("\n")
        ]
        assert rows[1] == ["---"] * len(rows[0])
        for row, c in zip(rows[2:], of_kind, strict=True):
            verdict = shown_verdict(c)
            assert row[0] == {"refuted": "refuted at this scale"}.get(verdict, verdict)
            assert (row[2], row[3], row[5]) == (c.criterion.strip(), measured_in_words(c), str(len(c.seeds)))
            assert row[1].startswith(c.statement.strip())


# The file ------------------------------------------------------------------------------------------------------------


@given(st.lists(FIELDS, max_size=4))
def test_claims_come_back_from_their_file_as_they_were(tmp_path_factory, drawn):
    held = [made(fields) for fields in drawn]
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
        [dict.fromkeys(["id", "place", "statement", "criterion", "measured", "interval", "verdict"]) | {"seeds": 3}]
    ),
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_by_name_and_with_a_remedy(tmp_path, content):
    path = tmp_path / "claims.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"claims\.json: .*(again|report|rerun)"):
        read_claims(path)


def test_a_missing_file_is_refused_by_name_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"claims\.json: there is no such file; .+"):
        read_claims(tmp_path / "claims.json")
