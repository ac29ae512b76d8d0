"""Properties by name, for the command line."""

from __future__ import annotations

from torch import nn

from toylab.console import ToylabError
from toylab.proofs.properties import Answers, Attends, Edited, IdealPattern, Property
from toylab.survey import strongest_head
from toylab.tasks import Task, held_out

PROPERTY_NAMES = ("answers", "free-running", "attention:LINK", "ideal-pattern:LINK")
"""Properties by name; LINK is the name of links of the task, of which the head with the most attention is tested."""


def named_property(name: str, model: nn.Module, task: Task) -> Property:
    """A property by its name.

    Raises:
        ToylabError: for an unknown name, or a link that the task does not have.
    """
    kind, _, link = name.partition(":")
    if name in ("answers", "free-running"):
        return Answers(free_running=name == "free-running")
    if kind not in ("attention", "ideal-pattern"):
        raise ToylabError(f"property={name}: is unknown; there are {', '.join(PROPERTY_NAMES)}")
    layer, head = _best_head(model, task, link)
    if kind == "attention":
        return Attends(link=link, layer=layer, head=head)
    return Edited(edits=IdealPattern(link=link, layer=layer, head=head))


def _best_head(model: nn.Module, task: Task, link: str) -> tuple[int, int]:
    """The head with the most attention on a link, on 256 rows of the training split."""
    batch = held_out(task, 0, 256, "train", purpose="prove")
    if not len(batch.links.get(link, ())):
        raise ToylabError(f"property: the task has no link {link!r}; there are {', '.join(batch.links)}")
    return strongest_head(model, batch, link)
