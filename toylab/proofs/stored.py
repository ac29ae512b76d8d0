"""Read a stored model with its task: the folder of a job in a run, or a model file beside a given task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from toylab.console import ToylabError
from toylab.model.checkpoint import load_model
from toylab.probes import link_mass, watch
from toylab.proofs.properties import Answers, Attends, Edited, IdealPattern, Property
from toylab.runs import registry
from toylab.runs.judge import restore_settings
from toylab.runs.store import read_settings
from toylab.runs.study import Job
from toylab.tasks import Task, held_out
from toylab.training.batches import tokens_for

PROPERTY_NAMES = ("answers", "free-running", "attention:LINK", "ideal-pattern:LINK")
"""Properties by name; LINK is the name of links of the task, of which the head with the most attention is tested."""


def stored_model(path: Path | str, task: Task | None = None) -> tuple[nn.Module, Task]:
    """A stored model and its task.

    Args:
        path: the folder of a job, such as `runs/iteration-head-quick/seed-0/main`, or a file `model.safetensors`.
        task: of a model file; that of a job is stored in its run.

    Raises:
        ToylabError: for any other path, or a model file without a task.
    """
    path = Path(path)
    if path.is_file() and task is None and (path.parent / "done").exists():
        path = path.parent
    if path.is_file():
        if task is None:
            raise ToylabError(f"{path}: does not name its task; give one with --task, or the folder of a job")
        return load_model(path), task
    if not (path / "model.safetensors").is_file():
        jobs = sorted(str(file.parent) for file in path.glob("seed-*/*/model.safetensors"))
        hint = f"it holds the jobs {', '.join(jobs[:4])}" if jobs else "give the folder of a job, or a model file"
        raise ToylabError(f"{path}: holds no model.safetensors; {hint}")
    model = load_model(path / "model.safetensors")
    return model, _task_of_job(path) if task is None else task


def _task_of_job(folder: Path) -> Task:
    """The task of a job, from the settings of its run."""
    out = folder.resolve().parents[1]
    about = read_settings(out / "settings.json")
    study_class = registry.study_of_folder(about["study"], out, None, "toylab prove {folder}/... --task TASK").STUDY
    default = registry.preset_settings(study_class, "default")
    study: Any = restore_settings(default, about["settings"], out / "settings.json")
    jobs = {job.folder(out).resolve(): job for job in study.jobs()}
    job = jobs.get(folder.resolve(), Job("", 0))
    return getattr(job.what, "task", study.task)


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


@torch.no_grad()
def _best_head(model: nn.Module, task: Task, link: str) -> tuple[int, int]:
    """Layer and number of the head with the most attention on a link, on 256 rows of the training split."""
    batch = held_out(task, 0, 256, "train", purpose="prove")
    edges = batch.links.get(link)
    if edges is None or not len(edges):
        raise ToylabError(f"property: the task has no link {link!r}; there are {', '.join(batch.links)}")
    with watch(model, "blocks.*.attn.pattern") as cache:
        model(tokens_for(model, batch.tokens))
    masses = [link_mass(pattern, edges) for pattern in cache.values()]
    layer = max(range(len(masses)), key=lambda at: float(masses[at].max()))
    return layer, int(masses[layer].argmax())
