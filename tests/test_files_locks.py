"""Laws of locks: a folder has one holder at a time, and no other file is touched."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from toylab.console import ToylabError
from toylab.files import folder_lock


def test_a_lock_that_is_held_is_refused_or_waited_for(tmp_path):
    def enter(wait: bool) -> bool:
        with folder_lock(tmp_path, wait):
            return True

    with ThreadPoolExecutor(2) as beside:
        with folder_lock(tmp_path):
            refused, waiting = (beside.submit(enter, wait) for wait in (False, True))
            with pytest.raises(ToylabError, match="another process is writing there"):
                refused.result(timeout=10)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)
        assert waiting.result(timeout=10)


def test_a_lock_that_is_a_link_touches_no_other_file(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to("../precious")
    with pytest.raises(ToylabError, match=r"\.lock: a link leads out"), folder_lock(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
