"""Laws of files: whole or not there, the same when read back, and nothing written where nothing may be."""

import errno
import importlib
import inspect
import json
import math
import os
import re
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.modules import module_names
from toylab import ModelConfig, Transformer, files, load_model, save_model
from toylab.console import ToylabError
from toylab.files import (
    folder_lock,
    read_json,
    read_record,
    read_tensors,
    refuse_unwritable,
    remove_partial_files,
    tensors_digest,
    write_bytes,
    write_json,
    write_record,
    write_tensors,
    write_text,
)
from toylab.model.steering import load_steering, save_steering, steer
from toylab.runs.store import refuse_others
from toylab.runs.table import load_runs
from toylab.verdicts.judgement import read_claims, write_claims

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    LEAVES | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Writing -------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_file_holds_what_was_written_last_and_nothing_is_left_beside_it(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("files")
    path = folder / "deep" / "er" / "file.bin"
    for content in (first, second):
        write_bytes(path, content)
        assert path.read_bytes() == content
        assert names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("broken", ["fsync", "replace", "write"])
@pytest.mark.parametrize("existed", [True, False])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, broken, existed):
    path = tmp_path / "file.txt"
    if existed:
        write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    if broken == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    elif broken == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    content = "new" if broken != "write" else "\ud800"  # half a surrogate pair is no text that UTF-8 can hold
    with pytest.raises(
        ValueError, match="surrogates" if broken == "write" else "file.txt: No space left on device; .+"
    ):
        write_text(path, content)
    monkeypatch.undo()
    assert names(tmp_path) == (["file.txt"] if existed else [])
    if existed:
        assert path.read_text() == "old"


def test_what_ended_processes_had_begun_is_swept_and_nothing_else(tmp_path):
    kept = [tmp_path / "file", tmp_path / ".file.12", tmp_path / "seed-0" / ".file.123", tmp_path / "seed-0" / "a.4"]
    begun = [tmp_path / ".file.4", tmp_path / "seed-0" / ".result.json.4", tmp_path / "seed-0" / ".b.56"]
    (tmp_path / "seed-0").mkdir()
    for path in kept + begun:
        path.touch()
    remove_partial_files(tmp_path, [4, 56, 7])
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_a_reader_never_meets_half_a_file(tmp_path, monkeypatch):
    """Whenever the new content is not yet safe on the disk, the name still stands for the old one."""
    path, met = tmp_path / "file.txt", []
    write_text(path, "old")
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: met.append(path.read_text()) or flush(number))
    write_text(path, "new")
    assert met == ["old"]
    assert path.read_text() == "new"


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, -math.inf]])
def test_numbers_that_json_does_not_know_are_not_written(tmp_path, value):
    path = tmp_path / "file.json"
    write_json(path, "old")
    with pytest.raises(ValueError, match=r"JSON"):
        write_json(path, {"value": value})
    assert read_json(path) == "old"
    assert names(tmp_path) == ["file.json"]


def test_what_is_no_json_at_all_is_not_written(tmp_path):
    for key, value in {"x": object(), "y": {1, 2}, "z": {(1, 2): 3}, "w": Path()}.items():
        with pytest.raises(ToylabError, match=rf"^file\.of\.{key}: "):
            write_json(tmp_path / "file.json", {"of": {key: value}})
    assert names(tmp_path) == []


@given(st.binary(max_size=50), st.booleans())
def test_a_link_stays_and_the_file_that_it_points_to_is_written(tmp_path_factory, content, existed):
    folder = tmp_path_factory.mktemp("files")
    target, link = folder / "store" / "file.bin", folder / "link.bin"
    target.parent.mkdir()
    if existed:
        target.write_bytes(b"old")
    link.symlink_to(Path("store") / "file.bin")
    write_bytes(link, content)
    assert link.is_symlink()
    assert target.read_bytes() == content
    assert names(folder) == ["link.bin", "store"]
    assert names(target.parent) == ["file.bin"]


def test_what_is_no_regular_file_is_neither_replaced_nor_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ToylabError, match=rf"{name}: is no regular file; .+"):
            write_text(tmp_path / name, "x")
        with pytest.raises(ToylabError, match=rf"{name}: is no regular file; .+"):
            read_json(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == ["folder", "pipe"]


def test_what_the_system_says_of_a_file_is_an_error_of_ours_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("{}")
    for call in (
        lambda: write_text(tmp_path / "file" / "below", "x"),
        lambda: read_json(tmp_path / "file" / "below"),
        lambda: write_text(tmp_path / ("x" * 300), "x"),
        lambda: files.folder_lock(tmp_path / "file").__enter__(),
        lambda: files.exists(tmp_path / ("x" * 300)),
        lambda: refuse_others(tmp_path / ("x" * 300), "settings.json", "run"),
        lambda: load_runs(tmp_path / ("x" * 300)),
    ):
        with pytest.raises(ToylabError, match=rf"^{re.escape(str(tmp_path))}/[a-z/.]+: [A-Z].+; .+") as error:
            call()
        assert isinstance(error.value.__cause__, OSError)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", files._REMEDIES)
def test_only_where_nothing_may_be_written_is_it_an_unwritable_place(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ToylabError, match=os.strerror(number)) as error:
        write_text(tmp_path / "file", "x")
    unwritable = number in (errno.EROFS, errno.EACCES, errno.EPERM)
    assert isinstance(error.value, files.UnwritableError) == unwritable


def test_an_error_of_what_is_done_in_a_folder_keeps_its_class(tmp_path):
    with pytest.raises(FileNotFoundError), files.folder_lock(tmp_path):
        (tmp_path / "missing").read_text()


@given(st.text(max_size=8) | st.sampled_from(["a/b", "..", ".", "", "/tmp/x", ".hidden", "a\\b", "a\0", "two\nlines"]))
def test_a_name_of_one_part_is_a_visible_entry_of_its_folder(name):
    if files.is_file_name(name):
        assert Path("folder", name).parts == ("folder", name)
        assert os.path.normpath(f"folder/{name}") == f"folder/{name}"
        assert not name.startswith(".")
        assert name.isprintable()
    elif name.isalnum():
        pytest.fail(f"{name!r} is refused")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "/tmp/x", ".hidden", "a\\b", "a\0", "two\nlines", 3, None])
def test_what_is_no_name_of_one_part(name):
    assert not files.is_file_name(name)


def test_a_link_that_leads_out_is_refused_and_one_that_stays_inside_is_not(tmp_path):
    home, outside = tmp_path / "home", tmp_path / "outside"
    for folder in (home / "inner", outside):
        folder.mkdir(parents=True)
    (home / "out").symlink_to(outside)
    (home / "in").symlink_to(home / "inner")
    (home / "dangling").symlink_to("../nowhere")
    (tmp_path / "alias").symlink_to(home)
    for base in (home, tmp_path / "alias"):
        files.refuse_links(base, base / "in" / "file", base / "new" / "er", base / "inner")
        for name in ("out", "out/file", "dangling", "../outside"):
            with pytest.raises(ToylabError, match=r"a link leads out of .+; delete the link"):
                files.refuse_links(base, base / name)


# Round trips ---------------------------------------------------------------------------------------------------------


@given(JSON)
def test_json_comes_back_as_it_was(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("files") / "file.json"
    write_json(path, value)
    assert read_json(path) == value
    assert json.loads(path.read_text(encoding="utf-8")) == value


@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=6),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        max_size=4,
    ),
    st.dictionaries(st.text(), JSON, max_size=3),
    st.integers(0, 2**32),
)
def test_tensors_come_back_with_their_bits_and_what_they_are_about(tmp_path_factory, shapes, about, seed):
    path, source = tmp_path_factory.mktemp("files") / "file.safetensors", torch.Generator().manual_seed(seed)
    tensors = {name: torch.randint(-5, 5, shape, generator=source).to(dtype) for name, (dtype, shape) in shapes.items()}
    write_tensors(path, tensors, about)
    found, held = read_tensors(path)
    assert held == about
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_same_tensors_make_the_same_bytes(tmp_path):
    path, written = tmp_path / "file.safetensors", set()
    for _ in range(24):
        write_tensors(path, {"x": torch.zeros(2), "y": torch.ones(3)}, {"step": 1, "name": "x"})
        written.add(path.read_bytes())
    assert len(written) == 1


def test_views_and_trained_tensors_are_saved_by_value(tmp_path):
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    write_tensors(tmp_path / "file.safetensors", {"turned": weight.T, "part": weight[:, 1]}, {})
    found, _ = read_tensors(tmp_path / "file.safetensors")
    assert found["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["part"].tolist() == [1, 4]
    assert not found["turned"].requires_grad


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"x": torch.zeros(1000)}, {})
    found, _ = read_tensors(path)
    write_tensors(path, {"x": torch.ones(1000)}, {})
    with path.open("r+b") as file:
        file.write(b"\0" * 64)
    assert (found["x"] == 0).all()


# Paths ---------------------------------------------------------------------------------------------------------------

FROM_THE_PROGRAM = {
    "StoredModel",
    "attention_page",
    "complete_job",
    "draw",
    "is_training",
    "live",
    "counting_history",
    "lens_page",
    "nearness_history",
    "nearness_page",
    "lens_history",
    "ProcessPool",
    "seed_of",
    "train_mixture",
}
"""What is called by the program alone, with paths that it made; so is what does a job of a study."""


def test_every_public_function_that_takes_a_path_takes_it_as_text():
    only_paths, tried = [], 0
    for module in map(importlib.import_module, module_names()):
        for name, public in vars(module).items():
            if name.startswith("_") or getattr(public, "__module__", None) != module.__name__ or not callable(public):
                continue
            if name in FROM_THE_PROGRAM or (isinstance(public, type) and issubclass(public, Exception | dict)):
                continue
            parameters = inspect.signature(public).parameters
            for parameter in parameters.values() if list(parameters)[:2] != ["study", "job"] else ():
                words = str(parameter.annotation)
                tried += "Path" in words
                if "Path" in words and "str" not in words and "Callable" not in words:
                    only_paths.append(f"{module.__name__}.{name}({parameter})")
    assert not only_paths
    assert tried > 30


def test_what_is_written_under_a_name_of_text_is_read_under_it(tmp_path):
    def at(name: str) -> str:
        return os.path.join(tmp_path, "deep", name)

    model = Transformer(ModelConfig(layers=1, heads=1, width=4), vocab=3, context=4)
    steered = steer(model, {0: torch.arange(4.0)})
    with folder_lock(at("folder")):
        save_model(at("model"), model)
        save_steering(at("steering"), steered)
        write_claims(at("claims"), [])
        write_json(at("json"), [1])
        write_record(at("record"), {"a": 1})
        write_text(at("text"), "text")
    assert all(map(torch.equal, load_model(at("model")).parameters(), model.parameters()))
    assert all(map(torch.equal, load_steering(at("steering"), model).parameters(), steered.parameters()))
    assert (read_claims(at("claims")), read_json(at("json")), read_record(at("record"))) == ([], [1], {"a": 1})
    remove_partial_files(str(tmp_path), [1])
    for read in (load_model, read_claims, read_json, read_record, read_tensors):
        with pytest.raises(ToylabError, match=r"nothing: there is no such file"):
            read(at("nothing"))


# Before the work -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "deep/er/model", "with space"])
def test_a_file_that_can_be_written_passes_and_nothing_but_its_folder_is_made(tmp_path, name):
    path = tmp_path / name
    refuse_unwritable("out", str(path))
    assert names(path.parent) == []
    write_text(path, "old")
    refuse_unwritable("out", path)
    assert path.read_text() == "old"
    assert names(path.parent) == [path.name]


def test_what_cannot_be_written_is_refused_by_setting_and_name(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in ("file/model", "file/deep/model", "n" * 400, "folder"):
        with pytest.raises(ToylabError, match=rf"^out={tmp_path / path}: .*give "):
            refuse_unwritable("out", tmp_path / path)
    for path in ("", ".", "..", "/"):
        with pytest.raises(ToylabError, match="is a folder; give the name of a file"):
            refuse_unwritable("out", path)
    assert names(tmp_path) == ["file", "folder"]
    monkeypatch.setattr(Path, "touch", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ToylabError, match=r"out=.*model: cannot be written \(Permission denied\)"):
        refuse_unwritable("out", tmp_path / "model")


# Digests -------------------------------------------------------------------------------------------------------------

CHANGES = {
    "a bit": lambda held: {**held, "x": held["x"] + torch.tensor([[0, 0], [0, 1e-6]])},
    "a name": lambda held: {"z": held["x"], "y": held["y"]},
    "a shape": lambda held: {**held, "x": held["x"].flatten()},
    "a type": lambda held: {**held, "y": held["y"].view(torch.float32)},
    "one less": lambda held: {"x": held["x"]},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_digest_tells_names_shapes_types_and_bits_apart_and_nothing_else(change):
    held = {"x": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "y": torch.arange(3, dtype=torch.int32)}
    assert tensors_digest(held) == tensors_digest(
        {name: x.clone().requires_grad_(name == "x") for name, x in held.items()}
    )
    assert tensors_digest(held) == tensors_digest({"y": held["y"], "x": held["x"].T.contiguous().T})
    assert tensors_digest(held) != tensors_digest(change(held))
