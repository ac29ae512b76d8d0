"""Properties by name."""

import pytest

from toylab.console import ToylabError
from toylab.planted.handwritten import iteration_head
from toylab.proofs.named import named_property
from toylab.proofs.properties import Answers, Attends, Edited, IdealPattern
from toylab.tasks import Polynomial

TASK = Polynomial(p=5, lengths=(4, 6))


def test_properties_by_name_are_of_the_planted_head():
    model = iteration_head(TASK)
    assert named_property("answers", model, TASK) == Answers()
    assert named_property("free-running", model, TASK) == Answers(free_running=True)
    assert named_property("attention:carry", model, TASK) == Attends(link="carry", layer=1, head=0)
    assert named_property("attention:end of input", model, TASK).layer == 0
    ideal = IdealPattern(link="carry", layer=1, head=0)
    assert named_property("ideal-pattern:carry", model, TASK) == Edited(edits=ideal)
    for name, why in (
        ("answer", "answers, free-running"),
        ("attention:cary", "end of input, carry, stop"),
        ("x:y", "is unknown"),
    ):
        with pytest.raises(ToylabError, match=why):
            named_property(name, model, TASK)
