"""What the README shows, works."""

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from toylab.studies.iteration_head import IterationHeadStudy
from toylab.sweeps import load_runs
from toylab.train import TrainConfig

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def examples() -> tuple[str, ...]:
    """All Python: the first steps, a sweep, the same on Slurm, and a task, a model and a probe of one's own."""
    first, sweeping, on_slurm, task, foreign, probe = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    return first, sweeping, on_slurm, task, foreign, probe


def test_the_python_example_runs(capsys):
    exec(examples()[0], {})
    assert "blocks.1.attn.pattern" in capsys.readouterr().out


def test_the_sweep_in_python_runs(tmp_path, monkeypatch):
    """With fewer seeds and steps."""
    monkeypatch.chdir(tmp_path)
    few = replace(IterationHeadStudy.quick(), train=TrainConfig(steps=2, rows=4), rows=4)
    example = examples()[1].replace("IterationHeadStudy.quick()", "few").replace("range(10)", "range(1)")
    names = {"__name__": "__main__", "few": few}
    exec(example, names)
    assert [row["settings.model.positions"] for row in names["rows"]] == ["none", "rotary"]
    assert names["rows"] == load_runs("runs/mine")


def test_a_model_of_someone_elses_is_adopted(capsys):
    theirs = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0), 2)
    names = {"theirs": theirs, "tokens": torch.randn(3, 5, 16)}
    exec(examples()[4], names)
    assert "blocks.0.resid_pre" in capsys.readouterr().out
    assert names["seen"]["blocks.1.attn.pattern"].shape == (3, 2, 5, 5)


def test_the_wrong_probe_is_caught(capsys):
    exec(examples()[5], {})
    found = capsys.readouterr().out
    assert re.match(r"([5-9]|1\d)/14 ", found), found


def test_the_example_for_slurm_is_python():
    compile(examples()[2], "README.md", "exec")


def test_every_file_that_is_linked_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if "://" not in link and not (Path(__file__).parent.parent / link).exists()]
    assert links
    assert not missing
