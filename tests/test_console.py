"""Laws of names: every one that there is not is told with those that there are."""

import re
import sys

import pytest

from tests.settings_classes import SETTINGS, hints, words
from toylab import tasks
from toylab.console import SYNONYMS, ToylabError, unknown_name
from toylab.model.config import ModelConfig
from toylab.model.positions import POSITIONS
from toylab.runs.registry import load_class


def test_every_synonym_leads_to_an_option_that_there_is():
    options = {str(word) for kind in SETTINGS for hint in hints(kind).values() for word in words(hint)}
    known = {
        *POSITIONS,
        *tasks.SPLITS,
        *options,
        *(re.sub(r"(?<!^)([A-Z])", r"-\1", kind.__name__).lower() for kind in tasks.TASKS),
    }
    assert set(SYNONYMS.values()) <= known
    assert not set(SYNONYMS) & known
    for word, option in SYNONYMS.items():
        for name in (word, word.upper()):
            assert str(unknown_name("option", name, known)) == f"there is no option {name!r}; did you mean {option}?"
    assert "sinusoidal" not in str(unknown_name("option", "sin", ["cosine", "rotary"]))
    with pytest.raises(ToylabError, match="'rope'; did you mean rotary"):
        ModelConfig(positions="rope")


def test_a_module_of_somebody_elses_that_fails_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "sound_one.py").write_text("class Sound: ...\n")
    assert load_class("task", "sound_one:Sound").__name__ == "Sound"
    for name, line, error in (
        ("needs_one", "import not_installed_at_all", ModuleNotFoundError),
        ("itself_one", "import itself_one.part", ModuleNotFoundError),
        ("fails_one", "raise ValueError('a fault')", ValueError),
        ("import_one", "from sound_one import nothing", ImportError),
        ("syntax_one", "class", SyntaxError),
    ):
        (tmp_path / f"{name}.py").write_text(f"{line}\n")
        with pytest.raises(error) as caught:
            load_class("task", f"{name}:Task")
        assert not isinstance(caught.value, ToylabError)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere_one:Task", "module 'nowhere_one' is neither"),
        ("toylab.tasks.nowhere:Task", "module 'toylab.tasks.nowhere' is neither"),
        ("toylab.tasks.iteration:Paraty", "did you mean Parity"),
        ("toylab.tasks.iteration:stream", "there is no task 'stream'"),
        ("tasks/iteration.py:Parity", "is not a module name"),
        ("iteration.py:Parity", "is not a module name"),
        (":Parity", "is not a module name"),
        ("toylab..tasks:Parity", "is not a module name"),
        (".iteration:Parity", "is not a module name"),
    ],
)
def test_a_module_or_class_that_there_is_not_is_a_line(name, told):
    with pytest.raises(ToylabError, match=re.escape(told)):
        load_class("task", name)
