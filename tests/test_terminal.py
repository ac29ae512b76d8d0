"""Laws of streams: what is printed comes out as far as it can, and nothing fails where nothing can come out."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toylab.console import broken_output, progress_bar, safe_printing


@given(st.text(), st.sampled_from(["ascii", "latin-1", "utf-8"]))
def test_every_text_is_printed_and_what_the_encoding_has_is_printed_as_it_is(text, encoding):
    held = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", held)
        with safe_printing():
            print(text, end="", flush=True)
    assert held.buffer.getvalue() == text.encode(encoding, "backslashreplace")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_stream_that_is_missing_takes_everything_and_is_missing_afterwards(monkeypatch, name, closed):
    before = io.StringIO() if closed else None
    if closed:
        before.close()
    monkeypatch.setattr(sys, name, before)
    with safe_printing():
        getattr(sys, name).write("größe")
        assert broken_output() is None
    assert getattr(sys, name) is before


@pytest.mark.parametrize("stderr", [None, io.StringIO(), "closed"])
def test_a_bar_counts_and_is_drawn_where_it_can_be_seen(monkeypatch, stderr):
    if stderr == "closed":
        stderr = io.StringIO()
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert list(progress_bar(range(3), desc="steps")) == [0, 1, 2]
    with progress_bar(total=3) as shown:
        shown.update()
        shown.set_postfix(loss=1.0)
    if stderr is not None and not stderr.closed:
        assert "3/3" in stderr.getvalue()
        monkeypatch.setattr(sys, "stderr", quiet := io.StringIO())
        list(progress_bar(range(3), disable=True))
        assert quiet.getvalue() == ""


class Broken(io.StringIO):
    """A pipe or a disk that takes no more."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def flush(self):
        raise self.error

    def fileno(self):
        return self.copy


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_broken_output_is_told_from_a_fault_of_somebody_else(monkeypatch, tmp_path, name, error):
    assert broken_output() is None
    with (tmp_path / "output").open("w") as file:
        stream = Broken(error)
        stream.copy = file.fileno()
        monkeypatch.setattr(sys, name, stream)
        assert broken_output() is error
        file.write("goes nowhere")
    assert (tmp_path / "output").read_text() == ""
