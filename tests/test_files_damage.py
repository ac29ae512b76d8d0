"""Laws of damaged files: refused by name with a remedy, whatever is wrong with them."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.damage import NO_SHRINKING, Content, cut_short, with_a_bit_flipped
from toylab import files
from toylab.console import ToylabError
from toylab.files import (
    read_json,
    read_tensors,
    write_tensors,
)


@pytest.fixture(scope="module")
def intact(tmp_path_factory) -> Content:
    path = tmp_path_factory.mktemp("intact") / "file.safetensors"
    source = torch.Generator().manual_seed(0)
    write_tensors(path, {"x": torch.randn(5, 7, generator=source), "y": torch.arange(9)}, {"step": 12, "name": "x"})
    return Content(path.read_bytes())


@settings(phases=NO_SHRINKING)
@given(st.data())
def test_tensors_cut_short_anywhere_are_refused_by_name_with_a_remedy(intact, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "file.safetensors"
    path.write_bytes(cut_short(intact, data))
    with pytest.raises(ValueError, match=r"file\.safetensors: .*delete it and rerun the command that did"):
        read_tensors(path)


@pytest.mark.parametrize("part", ["header", "weights"])
@settings(phases=NO_SHRINKING)
@given(st.data())
def test_tensors_with_one_bit_flipped_anywhere_are_refused_by_name(intact, tmp_path_factory, part, data):
    path = tmp_path_factory.mktemp("flipped") / "file.safetensors"
    path.write_bytes(with_a_bit_flipped(intact, part, data))
    with pytest.raises(ValueError, match=r"file\.safetensors: "):
        read_tensors(path)


@given(st.binary(max_size=60))
def test_garbage_is_refused_by_name(tmp_path_factory, garbage):
    path = tmp_path_factory.mktemp("garbage") / "file.safetensors"
    path.write_bytes(garbage)
    with pytest.raises(ValueError, match=r"file\.safetensors: "):
        read_tensors(path)


@pytest.mark.parametrize("header", [None, {"about": "{}"}, {"format": "0", "about": "{}"}, {"format": "2"}])
def test_tensors_of_another_format_are_refused_with_both_versions(tmp_path, header):
    path = tmp_path / "file.safetensors"
    save_file({"x": torch.zeros(2)}, path, header and {"toylab": json.dumps(header)})
    held = (header or {}).get("format")
    with pytest.raises(ValueError, match=rf"file\.safetensors: has format {held!r}.*{files.FORMAT!r}; use the version"):
        read_tensors(path)


@given(st.sampled_from(["", "{", "[1, 2", '{"a": 1} b', "nan?", "\x00"]))
def test_what_is_not_json_is_refused_by_name_with_a_remedy(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "file.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"file\.json: is damaged.*delete it and rerun the command that did"):
        read_json(path)


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


SICK = {
    "nested": nested(files.DEEPEST + 1),
    "deeply nested": nested(100_000),
    "objects nested": '{"a": ' * 5000 + "1" + "}" * 5000,
    "a key twice": '{"a": 1, "b": {"c": 1, "c": 2}}',
    "no number": '{"a": [NaN]}',
    "infinite": '{"a": -Infinity}',
    "a large exponent": '{"a": 1e999}',
    "many digits": '{"a": ' + "9" * 400 + "}",
    "more digits than Python reads": '{"a": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("text", SICK.values(), ids=SICK)
def test_json_that_would_break_what_reads_it_is_refused_by_name_in_every_kind_of_file(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    for read in (read_json, files.read_record):
        with pytest.raises(ToylabError, match=r"file\.json: is damaged, not readable as JSON \(.+\); if toylab"):
            read(path)
    for header in (text, json.dumps({"format": files.FORMAT, "checksum": files._checksum({}, text), "about": text})):
        save_file({}, tmp_path / "file.safetensors", {"toylab": header})
        with pytest.raises(ToylabError, match=r"file\.safetensors: is damaged"):
            read_tensors(tmp_path / "file.safetensors")


def test_json_up_to_its_limits_is_read():
    assert json.dumps(files.parse_json(nested(files.DEEPEST))) == nested(files.DEEPEST)
    largest = {"float": 1.7976931348623157e308, "integer": 2**1000, "twice": [{"a": 1}, {"a": 2}]}
    assert files.parse_json(json.dumps(largest)) == largest
    assert math.isnan(files.parse_json("[NaN]", finite=False)[0])


def test_what_is_not_text_is_refused_by_name(tmp_path):
    (tmp_path / "file.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"file\.json: is damaged"):
        read_json(tmp_path / "file.json")


@pytest.mark.parametrize("read", [read_json, read_tensors])
def test_a_missing_file_is_refused_by_name_with_a_remedy(tmp_path, read):
    with pytest.raises(ValueError, match=r"missing\.file: there is no such file; .+"):
        read(tmp_path / "missing.file")


@pytest.mark.parametrize("read", [read_json, read_tensors])
def test_a_folder_in_place_of_a_file_is_refused_by_name(tmp_path, read):
    with pytest.raises((ValueError, OSError), match=tmp_path.name):
        read(tmp_path)
