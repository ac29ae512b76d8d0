"""Laws of tables: they say what was found, with the right means."""

import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs.helpers import FOUR, Small, measured
from toylab import cli
from toylab.files import read_json, write_json
from toylab.report import figures
from toylab.runs.grid import grid
from toylab.runs.sweep import sweep
from toylab.runs.table import MeanInterval, filter_rows, find_column, group_means, load_runs, with_thresholds
from toylab.verdicts.intervals import bootstrap_interval, wilson_interval
from toylab.verdicts.judgement import read_claims, write_claims


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    base = tmp_path_factory.mktemp("swept")
    points = grid(Small(notes=str(base)), FOUR | {"seed": range(5)})
    return base / "out", sweep(points, base / "out", workers=1, progress=False)


@pytest.fixture
def table(swept, out) -> list[dict[str, Any]]:
    """The rows of a sweep, which lies in `out`."""
    folder, rows = swept
    shutil.copytree(folder, out)
    return rows


def test_the_table_holds_settings_and_results_of_every_job(out, table):
    assert len(table) == 4 * 5 * 3
    for row in table:
        job = out / row["run"] / f"seed-{row['seed']}" / row["job"]
        result = read_json(job / "result.json")
        assert row["result.value"] == result["value"]
        assert row["result.deep.er"] == row["seed"]
        assert row["settings.kind"] in row["run"]
        assert (row["settings.size.heads"], row["settings.lengths"]) == (3, [1, 3])
        assert not any(isinstance(value, dict) for value in row.values())
    assert len({tuple(row) for row in table}) == 1, "all rows have the same columns"


def test_a_single_run_and_a_folder_of_runs_are_tables_too(out, table):
    one = load_runs(out / "size.width=6,kind=plain")
    assert one == [row for row in table if row["run"] == "size.width=6,kind=plain"]


@pytest.mark.parametrize("name", ["seed-0.bak", "seed-x", "seed-", "seed-00", "seed-0/.ipynb_checkpoints"])
def test_a_copy_beside_the_seeds_is_no_part_of_the_table(out, table, name):
    shutil.copytree(out / "size.width=6,kind=plain" / "seed-0", out / "size.width=6,kind=plain" / name)
    assert load_runs(out) == table


def test_the_claims_of_all_runs_are_a_table(out, table):
    rows = load_runs(out, "claims")
    assert [row["run"] for row in rows] == sorted({row["run"] for row in table})
    for row in rows:
        values = [one["result.value"] for one in table if one["run"] == row["run"] and one["job"] == "other"]
        assert row["measured"] == pytest.approx(np.median(values), abs=1e-4)
        assert (row["claim"], row["seeds"]) == ("half", 5)
        assert row["verdict"] == "undecided"  # by fewer than six seeds


def test_an_interval_has_both_its_ends_in_the_table(out, table, tmp_path):
    shutil.copytree(out / "size.width=6,kind=plain", tmp_path / "run")
    (claim,) = read_claims(tmp_path / "run" / "claims.json")
    write_claims(tmp_path / "run" / "claims.json", [replace(claim, interval=(0.25, 0.75))])
    (row,) = load_runs(tmp_path / "run", "claims")
    assert (row["low"], row["high"]) == (0.25, 0.75)


@pytest.mark.parametrize(
    ("asked", "full"),
    [
        ("kind", "settings.kind"),
        ("value", "result.value"),
        ("deep.er", "result.deep.er"),
        ("er", "result.deep.er"),
        ("seed", "seed"),
        ("run", "run"),
    ],
)
def test_a_column_is_known_by_the_end_of_its_name(table, asked, full):
    assert find_column(table, asked) == full


def test_a_whole_name_goes_before_the_end_of_a_longer_one():
    rows = [{"result.accuracy.6": 1, "result.transfer.accuracy.6": 2}]
    assert find_column(rows, "accuracy.6") == "result.accuracy.6"
    with pytest.raises(
        ValueError, match=r"column '6': is ambiguous, result\.accuracy\.6 or result\.transfer\.accuracy\.6"
    ):
        find_column(rows, "6")


def test_an_unknown_or_ambiguous_column_is_named_with_the_nearest():
    rows = [{"settings.a.width": 1, "settings.b.width": 2, "result.value": 3}]
    with pytest.raises(ValueError, match=r"column 'width': is ambiguous, settings\.a\.width or settings\.b\.width"):
        find_column(rows, "width")
    with pytest.raises(ValueError, match=r"there is no column 'val'; did you mean result\.value\?"):
        find_column(rows, "val")


def test_means_are_those_of_numpy_with_the_right_interval(table):
    found = group_means(table, ["kind", "width"], ["value", "value>=.5", "solved"])
    assert [(line["settings.kind"], line["settings.size.width"]) for line in found] == [
        ("plain", 6), ("plain", 12), ("round", 6), ("round", 12)
    ]  # fmt: skip
    for line in found:
        values = [
            row["result.value"]
            for row in table
            if (row["settings.kind"], row["settings.size.width"])
            == (line["settings.kind"], line["settings.size.width"])
        ]
        mean, share = line["result.value"], line["result.value>=.5"]
        assert mean.count == share.count == 15
        assert mean.mean == pytest.approx(np.mean(values))
        assert (mean.low, mean.high) == bootstrap_interval(values)
        passed = sum(value >= 0.5 for value in values)
        assert (share.mean, share.low, share.high) == (passed / 15, *wilson_interval(passed, 15))
        assert line["result.solved"] == share


@given(st.floats(-1e6, 1e6) | st.booleans())
def test_one_row_has_a_mean_and_no_interval(value):
    (line,) = group_means([{"kind": "plain", "value": value}], ["kind"], ["value"])
    assert line["value"] == MeanInterval(float(value), None, None, 1)
    assert "[" not in str(line["value"])


@pytest.mark.parametrize(
    ("sign", "below", "at", "above"),
    [(">=", False, True, True), ("<=", True, True, False), (">", False, False, True), ("<", True, False, False)],
)
def test_a_threshold_is_met_on_its_side_and_at_it_by_the_signs_with_equality(sign, below, at, above):
    rows, _ = with_thresholds([{"value": value} for value in (0.25, 0.5, 0.75, None)], [f"value{sign}.5"])
    assert [row[f"value{sign}.5"] for row in rows] == [below, at, above, None]


def test_rows_are_chosen_by_value(table):
    assert {row["job"] for row in filter_rows(table, ["job=leaf", "kind=plain"])} == {"leaf"}
    assert len(filter_rows(table, ["job=leaf", "kind=plain"])) == 10
    with pytest.raises(ValueError, match=r"where 'job=leef': no row has this value; job is base, leaf, other"):
        filter_rows(table, ["job=leef"])
    with pytest.raises(ValueError, match=r"where 'job': must be NAME=VALUE"):
        filter_rows(table, ["job"])


def test_what_is_no_number_has_no_mean(table):
    with pytest.raises(ValueError, match=r"column result\.list: holds \[1, 2\], and a mean needs numbers"):
        group_means(table, ["kind"], ["list"])


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run; give the folder of a sweep or of a run"):
        load_runs(tmp_path)


def printed(capsys: Any, *arguments: object) -> str:
    assert cli.run([str(one) for one in arguments]) == 0
    return capsys.readouterr().out


def test_the_command_prints_the_same_table_in_three_forms(capsys, out, table):
    wanted = ["--columns", "kind", "seed", "value", "--where", "job=other"]
    rows = filter_rows(table, ["job=other"])
    as_json = json.loads(printed(capsys, "table", out, *wanted, "--json"))
    assert as_json == [{n: row[n] for n in ("settings.kind", "seed", "result.value")} for row in rows]
    as_csv = list(csv.DictReader(io.StringIO(printed(capsys, "table", out, *wanted, "--csv"))))
    assert [float(line["result.value"]) for line in as_csv] == [row["result.value"] for row in rows]
    lines = printed(capsys, "table", out, *wanted).splitlines()
    assert lines[0].split() == ["kind", "seed", "value"]
    assert lines[1].split() == ["plain", "0", f"{rows[0]['result.value']:.4g}"]
    assert len(lines) == 21
    assert "result.solved" in printed(capsys, "table", out, "--names").split()
    usual = printed(capsys, "table", out).splitlines()[0].split()
    assert usual == ["run", "job", "seed", "status", "size.width", "kind", "value", "solved", "cost.cpu_seconds"]


def test_the_command_prints_means(capsys, out, table):
    found = json.loads(printed(capsys, "table", out, "--by", "kind", "--columns", "value>=.5", "--json"))
    expected = group_means(table, ["kind"], ["value>=.5"])
    for line, mean in zip(found, expected, strict=True):
        assert asdict(mean["result.value>=.5"]) == {
            "mean": line["result.value>=.5"], **{k: line[f"result.value>=.5.{k}"] for k in ("low", "high", "count")}
        }  # fmt: skip
    assert str(expected[0]["result.value>=.5"]) in printed(
        capsys, "table", out, "--by", "kind", "--columns", "value>=.5"
    )


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(out, table):
    program = f"import sys; from toylab import cli; sys.exit(cli.run(['table', {str(out)!r}, '--json']))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(("x", "by"), [("width", "kind"), ("kind", "width"), ("kind", None)])
@pytest.mark.parametrize("form", [".svg", ".png"])
def test_the_command_draws_means_with_their_intervals(capsys, tmp_path, out, table, x, by, form):
    path = tmp_path / f"plot{form}"
    arguments = ["--x", x, "--y", "value", *(["--by", by] if by else [])]
    told = printed(capsys, "plot", out, *arguments, "--out", path)
    assert told.strip() == str(path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") if form == ".png" else b"value, mean of" in content


def test_one_row_is_drawn_as_a_point(capsys, tmp_path, out, table):
    path = tmp_path / "plot.svg"
    chosen = ["--where", "job=leaf", "seed=0", "width=6"]
    printed(capsys, "plot", out, "--x", "kind", "--y", "value", *chosen, "--out", path)
    assert b"value, mean of 1" in path.read_bytes()


ADDRESSES = [
    "tpc://localhost:8786", "localhost", "tcp://localhost", "tcp://localhost:port", "tcp://:8786", "tcp://localhost:0",
    "tcp://localhost:99999", "http://localhost:8786", "tcp://a b:1", "", "tcp://[::1",
]  # fmt: skip
"""Of no scheduler."""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sweep"], "study: is missing"),
        (["sweep", "iteration-heads"], "did you mean iteration-head?"),
        (["sweep", "iteration-head"], "grid: is empty; add --grid NAME=VALUES"),
        (["sweep", "iteration-head", "--grid", "positions=none"], "did you mean model.positions?"),
        (["sweep", "iteration-head", "--grid", "model.width=31"], "width=31"),
        (["sweep", "iteration-head", "--grid", "seed=0", "--jobs", "man"], "did you mean main?"),
        (["sweep", "iteration-head", "--grid", "seed=0", "--workers", "0"], "workers=0: must be at least 1"),
        (["sweep", "--continue", "nowhere"], "there is no such file"),
        (["sweep", "iteration-head", "--continue", "nowhere"], "continue: reads the study and its settings from"),
        pytest.param(
            ["sweep", "iteration-head", "--grid", "seed=0", "--scheduler", "tcp://127.0.0.1:1"],
            "no Dask scheduler answ",
            marks=pytest.mark.slow,
        ),
        *(
            (["sweep", "iteration-head", "--grid", "seed=0", "--scheduler", address], "must be tcp://HOST:PORT, as")
            for address in ADDRESSES
        ),
        (["table", "nowhere"], "holds no run"),
        (["plot", "nowhere", "--x", "a", "--y", "b"], "holds no run"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_written(capsys, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_intervals_are_drawn_where_they_are():
    ax = figures.plot_intervals({"a": {1: (0.5, 0.25, 0.75)}, "b": {2: (1.0, 0.5, 1.0)}}, xlabel="x", ylabel="y")
    strokes = [segment for c in ax.collections for segment in c.get_segments()]
    assert sorted((s[0][0], s[0][1], s[1][1]) for s in strokes) == [(1, 0.25, 0.75), (2, 0.5, 1.0)]


def test_a_sweep_can_be_continued_without_its_settings(capsys, tmp_path, monkeypatch):
    """With a study of the house, since only those are looked for by name."""
    tiny = [
        "--train.steps",
        "2",
        "--train.rows",
        "4",
        "--task.lengths",
        "1",
        "6",
        "--rows",
        "4",
    ]
    monkeypatch.chdir(tmp_path)
    arguments = ["sweep", "iteration-head", "--preset", "quick", *tiny, "--jobs", "one-layer", "--workers", "1"]
    assert cli.run([*arguments, "--grid", "model.positions=none,learned"]) == 0
    out = tmp_path / "runs" / "iteration-head-sweep"
    before = load_runs(out)
    assert [(row["run"], row["job"]) for row in before] == [
        ("model.positions=learned", "one-layer"), ("model.positions=none", "one-layer")
    ]  # fmt: skip
    (out / "model.positions=none" / "seed-0" / "one-layer" / "result.json").unlink()
    assert cli.run(["sweep", "--continue", "runs/iteration-head-sweep", "--workers", "1"]) == 0
    assert measured(load_runs(out)) == measured(before)
    changed = read_json(out / "sweep.json") | {"jobs": ["main"]}
    write_json(out / "sweep.json", changed)
    assert cli.run(["sweep", "--continue", "runs/iteration-head-sweep"]) == 2
    assert "sweep.json: is damaged (its content does not match its checksum)" in capsys.readouterr().err
