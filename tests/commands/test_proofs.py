"""Laws of the command prove."""

import pytest

from toylab.model.checkpoint import save_model
from toylab.planted.handwritten import iteration_head
from toylab.tasks import Parity


def test_the_command_prints_the_verdict_and_writes_a_certificate(call, tmp_path):
    task = Parity(lengths=(1, 4))
    save_model(tmp_path / "model.safetensors", iteration_head(task))
    given = ("prove", tmp_path / "model.safetensors", "--task", "parity", "--lengths", "1..4", "--budget", 30)
    outcome = call(*given, "--out", tmp_path / "proof.json")
    assert outcome.code == 0
    assert "Answers(free_running=False): for all 30 inputs of lengths 1 to 4" in outcome.out
    before = (tmp_path / "proof.json").read_bytes()
    assert call(*given, "--out", tmp_path / "proof.json").out == outcome.out
    assert (tmp_path / "proof.json").read_bytes() == before
    changed = call(*given[:-1], 0)
    assert "the other 30 inputs: fails on 0 of 3,000" in changed.out


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((), "FOLDER"),
        (("nowhere",), "there is no such file or folder"),
        (("nowhere", "--lengths", "6..1"), "lengths=6..1"),
        (("nowhere", "--lengths", "0"), "lengths=0"),
        (("nowhere", "--budget", -1), "budget=-1"),
        ((__file__,), "names no task"),
        ((__file__, "--task", "parit"), "did you mean parity"),
        ((__file__, "--task", "parity", "--task.q", 7), "task.q"),
    ],
)
def test_mistakes_are_one_line(call, given, why):
    outcome = call("prove", *given)
    assert outcome.code == 2
    assert why in outcome.message
