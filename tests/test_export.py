"""Laws of exported rows: they are read back as the same batch, a change is refused, and `datasets` reads them."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from toylab import cli
from toylab.console import ToylabError
from toylab.export import FORMATS, export_rows, header_path, read_rows
from toylab.files import read_record, write_record
from toylab.settings import as_json
from toylab.tasks import TASKS, AssociativeRecall, Parity, laws, stream
from toylab.tasks.mutants import Mutant

every_format = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture(autouse=True)
def _pyarrow(request):
    if "parquet" in getattr(getattr(request.node, "callspec", None), "params", {}).values():
        pytest.importorskip("pyarrow")


@every_format
@pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
def test_the_rows_of_every_task_are_read_back_as_the_same_batch(kind, form, tmp_path):
    task, path = kind(), tmp_path / "rows"
    export_rows(path, task, rows=9, seed=5, split="test", form=form)
    batch, header = read_rows(path)
    assert laws.equal_batches(batch, task.sample(stream(5, "export"), 9, "test"))
    assert header["settings"] == as_json(task, "settings")
    assert (header["task"], header["seed"], header["split"]) == (kind.__name__, 5, "test")
    assert (header["links"], header["vocabulary"]) == (list(batch.links), list(task.vocabulary))


@every_format
def test_a_task_without_links_and_labels_has_no_columns_of_them(form, tmp_path):
    class Bare(Parity):
        def batch(self, inputs, lengths):
            batch = super().batch(inputs, lengths)
            return type(batch)(batch.tokens, batch.targets, batch.sizes)

    task, path = Bare(lengths=3, chain_of_thought=False), tmp_path / "rows"
    export_rows(path, task, rows=2, form=form)
    assert laws.equal_batches(read_rows(path)[0], task.sample(stream(0, "export"), 2))


@every_format
def test_a_changed_file_a_changed_header_and_a_lost_header_are_refused_by_name(form, tmp_path):
    path = tmp_path / "rows"
    export_rows(path, AssociativeRecall(), rows=3, form=form)
    content, header = path.read_bytes(), header_path(path)
    middle = len(content) // 2
    for changed in (content[:-1], content + b"\n", content[:middle] + b"7" + content[middle + 1 :]):
        path.write_bytes(changed)
        with pytest.raises(ToylabError, match=rf"{path}: was modified .*{header}"):
            read_rows(path)
    path.write_bytes(content)
    read_rows(path)
    header.write_text(header.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ToylabError, match=rf"{header}: is damaged .*; export the rows again"):
        read_rows(path)
    header.unlink()
    with pytest.raises(ToylabError, match=rf"{header}: there is no such file"):
        read_rows(path)


def test_lines_show_words_without_padding_and_pairs_of_query_and_key(tmp_path):
    path = tmp_path / "rows.jsonl"
    export_rows(path, Parity(lengths=(2, 6)), rows=20, seed=1)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        assert list(row) == ["tokens", "words", "targets", "length", "links", "labels"]
        assert len(row["words"]) == row["length"] <= len(row["tokens"]) == len(row["targets"])
        assert row["words"][0] == "parity"
        end = row["words"].index("EoI")
        states = [query for query, _ in row["links"]["carry"]]
        inputs = [int(word) for word in row["words"][1:end]]
        assert [row["targets"][query] for query in states][: len(inputs)] == (np.cumsum(inputs) % 2).tolist()


def test_two_exports_with_equal_settings_have_equal_bytes_and_others_have_not(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        export_rows(tmp_path / name, Parity(), rows=5, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path, monkeypatch):
    path = tmp_path / "rows"
    with pytest.raises(ToylabError, match="there is no format 'csv'"):
        export_rows(path, Parity(), rows=1, form="csv")
    with pytest.raises(ToylabError, match="rows=0: must be at least 1"):
        export_rows(path, Parity(), rows=0)
    with pytest.raises(ToylabError, match="id"):  # a token without a name
        export_rows(path, Mutant(task=Parity(), fault="token outside the vocabulary"), rows=1)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ToylabError, match=r"format=parquet: needs pyarrow; pip install 'toylab\[export\]'"):
        export_rows(path, Parity(), rows=1, form="parquet")
    assert not list(tmp_path.iterdir())
    export_rows(path, Parity(), rows=1)
    with pytest.raises(ToylabError, match=rf"out={path}: already exists"):
        export_rows(path, Parity(), rows=1)


class Labelled(Parity):
    """A task with a label and with words of any text."""

    label = np.zeros(4)

    @property
    def vocabulary(self):
        return ("\u2028", "\x85\x1c", 'ü"<$', *super().vocabulary[3:])

    def sample(self, rng, rows, split="train", **given):
        batch = super().sample(rng, min(rows, 4), split, **given)
        return replace(batch, labels={"label": self.label})


def labelled(values):
    return type("Own", (Labelled,), {"label": values})(lengths=(1, 3))


LABELS = {
    "text": np.array(["é", "long\u2028", "", "<"]),
    "bool": np.arange(4) > 1,
    "arrays": np.zeros((4, 2, 2)),
    "half precision": np.arange(4.0, dtype="f2"),
}
REFUSED = {
    "'label' is object": np.array([None] * 4),
    "'label' is datetime": np.array(["2020-01-01"] * 4, dtype="datetime64[D]"),
    "'label' has nan": np.array([0, np.nan, 1, 1]),
    "nan or infinity": np.array([0, np.inf, 1, 1]),
}


@every_format
@pytest.mark.parametrize("label", LABELS)
def test_words_and_labels_of_any_text_are_read_back(form, label, tmp_path):
    export_rows(tmp_path / "rows", labelled(LABELS[label]), rows=4, form=form)
    batch = read_rows(tmp_path / "rows")[0]
    assert len(batch) == 4
    assert batch.labels["label"].dtype == LABELS[label].dtype
    assert np.array_equal(batch.labels["label"], LABELS[label])


@pytest.mark.parametrize("why", REFUSED)
def test_labels_without_a_column_are_refused_before_anything_is_written(why, tmp_path):
    with pytest.raises(ToylabError, match=why):
        export_rows(tmp_path / "rows", labelled(REFUSED[why]), rows=4)
    with pytest.raises(ToylabError, match="gives 4 rows where 5 are asked for"):
        export_rows(tmp_path / "rows", labelled(REFUSED[why]), rows=5)
    assert not list(tmp_path.iterdir())


def test_a_header_of_another_file_is_not_believed(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        export_rows(tmp_path / name, Parity(), rows=4, seed=seed)
    write_record(header_path(tmp_path / "a"), read_record(header_path(tmp_path / "b")))
    with pytest.raises(ToylabError, match="was modified"):
        read_rows(tmp_path / "a")
    write_record(header_path(tmp_path / "a"), {"no": "header"})
    with pytest.raises(ToylabError, match="was modified"):
        read_rows(tmp_path / "a")


def test_the_command_names_its_file_by_task_split_and_format(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["export", "parity", "--rows", "3", "--split", "validation", "--lengths", "8"]) == 0
    assert capsys.readouterr().out.startswith("parity-validation.jsonl: 3 rows")
    batch, header = read_rows("parity-validation.jsonl")
    assert laws.equal_batches(batch, Parity(lengths=8).sample(stream(0, "export"), 3, "validation"))
    assert header["settings"]["lengths"] == 8
    assert cli.run(["export", "parity", "--rows", "3", "--split", "validation"]) == 2
    assert "out=parity-validation.jsonl: already exists" in capsys.readouterr().err


@pytest.mark.slow
@every_format
def test_the_library_datasets_reads_rows_links_and_labels(form, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    path = tmp_path / f"rows.{form}"
    export_rows(path, AssociativeRecall(), rows=20, form=form)
    kind = "json" if form == "jsonl" else form
    read = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    batch, _ = read_rows(path)
    assert np.array_equal(read["tokens"], batch.tokens)
    assert np.array_equal(read["targets"], batch.targets)
    edges = [[row, *edge] for row, links in enumerate(read["links"]) for edge in links["induction"]]
    assert edges == batch.links["induction"].tolist()
    assert [labels["pair"] for labels in read["labels"]] == batch.labels["pair"].tolist()
