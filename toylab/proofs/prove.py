"""Prove a property of a model on all inputs of a task, in order, as far as a budget reaches."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from toylab.console import ToylabError, progress_bar
from toylab.probes.hooks import has_hooks
from toylab.proofs.certificate import header_of, property_title, read_certificate, spans_of, write_certificate
from toylab.proofs.counterexample import describe_failure
from toylab.proofs.proof import Proof, ProvedBlock, RestSample
from toylab.proofs.properties import UNDECIDED, Answers, Outcome, Property
from toylab.proofs.routes import proof_copy
from toylab.runs.processes import ProcessPool
from toylab.settings import check_range, convert_value
from toylab.tasks import SPLITS, EnumerableTask, Task, stream

BATCH = 2**12
"""Rows of a forward pass."""
CLOSE_MARGIN = 1e-4
"""Margins below this are decided in float64."""


def prove(
    model: nn.Module,
    task: Task,
    property: Property | None = None,
    *,
    lengths: range | tuple[int, ...] | None = None,
    budget: float | int = 60,
    workers: int = 1,
    out: Path | str | None = None,
    sample: int = 3000,
    seed: int = 0,
    progress: str | None = None,
) -> Proof:
    """Decide a property on every row of a task, smallest length first, and on a random sample of the rows beyond the
    budget.

    Args:
        model: run in evaluation mode, in its own dtype and on its device.
        property: by default, that every answer is correct.
        lengths: by default all that the task samples.
        budget: CPU-seconds of all processes for the rows decided one by one; a block that was begun is finished.
        workers: processes, of one thread each.
        out: certificate, a JSON file; if it exists, the proof is resumed after its blocks.
        sample: number of rows drawn from the rest.
        seed: of these draws.
        progress: title of a progress bar.

    Raises:
        ToylabError: for a task without a numbering, or with more rows than can be numbered; for answers of a task
            that is scored on texts; for a model of another vocabulary, or with hooks; for a certificate of another
            model, task or property, also if its last block is decided otherwise.
    """
    check_range(budget=budget, least=0)
    check_range(workers=workers, sample=sample, least=1)
    property, counts = property or Answers(), _counts(task, lengths)
    assert isinstance(task, EnumerableTask)  # checked by `_counts`
    if isinstance(property, Answers) and getattr(task, "next_token", False):
        raise ToylabError(
            f"property=answers: several tokens may follow in a text of {type(task).__name__}, and the row has one of "
            "them; give a property that takes all of them (see docs/prove.md)"
        )
    if has_hooks(*model.modules()):  # the copies that are proved lose those of `edit`
        raise ToylabError(
            f"model: {type(model).__name__} has hooks, which no proof takes; give edits as a property, "
            "Edited(edits=...), and prove outside of `edit` and `watch`"
        )
    if getattr(model, "vocab", len(task.vocabulary)) != len(task.vocabulary):
        raise ToylabError(
            f"model: has {model.vocab} tokens, and {type(task).__name__} has {len(task.vocabulary)}; give the task "
            "that the model was trained on"
        )
    model = proof_copy(model)
    header = header_of(model, task, property, counts)
    blocks = [] if out is None else read_certificate(out, header)
    if blocks and not _same_decisions(model, task, property, blocks[-1]):
        raise ToylabError(
            f"{out}: its last block is decided otherwise now, so the code of the model, task or property is another; "
            "give another file with --out"
        )
    for block in _blocks(model, task, property, counts, blocks, budget, workers, progress):
        blocks.append(block)
        if out is not None and len(blocks) % 16 == 0:
            write_certificate(out, header, blocks)
    rest = _sample_of_rest(model, task, property, counts, sum(block.rows for block in blocks), sample, seed)
    failed = next((block for block in blocks if block.counterexample is not None), None)
    text = None
    if failed is not None and failed.counterexample is not None:
        text = describe_failure(model, task, property, failed.length, failed.counterexample)
    if out is not None:
        write_certificate(out, header, blocks, rest, text)
    return Proof(name=property_title(property), counts=counts, blocks=tuple(blocks), sample=rest, counterexample=text)


def _counts(task: Any, lengths: range | tuple[int, ...] | None) -> dict[int, int]:
    """Number of rows of each length. Raises `ToylabError` for a task whose rows cannot be numbered."""
    if not isinstance(task, EnumerableTask):
        raise ToylabError(
            f"task={type(task).__name__}: has no numbering of its rows; give a task with sampled_lengths, count and "
            "enumerate (see toylab.tasks.EnumerableTask)"
        )
    chosen = sorted(
        set(task.sampled_lengths if lengths is None else convert_value(tuple[int, ...], lengths, "lengths"))
    )
    numbers = {length: convert_value(int, task.count(length), f"count({length})") for length in chosen}
    check_range(**{f"count({length})": number for length, number in numbers.items()}, least=0)
    counts = {length: number for length, number in numbers.items() if number}
    if not counts:
        raise ToylabError(f"lengths={chosen}: the task has no row of these lengths; it samples {task.sampled_lengths}")
    if (total := sum(counts.values())) >= 2**63:
        raise ToylabError(
            f"lengths={min(counts)}..{max(counts)}: the task has over 2^{total.bit_length() - 1} rows, and numbers end "
            "at 2^63; give shorter lengths, or a smaller task"
        )
    return counts


def _blocks(
    model: nn.Module,
    task: EnumerableTask,
    property: Property,
    counts: dict[int, int],
    done: list[ProvedBlock],
    budget: float | int,
    workers: int,
    progress: str | None,
) -> Iterator[ProvedBlock]:
    """The blocks after those that are done, in order, until the budget is spent."""
    spans = itertools.islice(spans_of(counts), len(done), None)
    spent, total = 0.0, sum(counts.values())
    bar = progress_bar(total=total, initial=sum(b.rows for b in done), desc=progress, disable=progress is None)
    with bar:
        if workers == 1:
            for span in spans:
                if spent >= budget:
                    return
                block, seconds = judge_block(model, task, property, *span)
                spent += seconds
                bar.update(block.rows)
                yield block
            return
        with ProcessPool(workers, []) as pool:
            pending: dict[Any, None] = {}
            while True:
                while spent < budget and len(pending) < 2 * workers and (span := next(spans, None)):
                    pending[pool.submit(judge_block, model, task, property, *span)] = None
                if not pending:
                    return
                first = next(iter(pending))  # blocks are counted in order
                wait([first], return_when=FIRST_COMPLETED)
                del pending[first]
                block, seconds = first.result()
                spent += seconds
                bar.update(block.rows)
                yield block


def _same_decisions(model: nn.Module, task: EnumerableTask, property: Property, block: ProvedBlock) -> bool:
    """Whether a block is decided again as before: a certificate names the code that decides, without a digest of it."""
    again, _ = judge_block(model, task, property, block.length, block.start, block.start + block.rows)
    return (again.digest, again.holds, again.train) == (block.digest, block.holds, block.train)


def judge_block(
    model: nn.Module, task: EnumerableTask, property: Property, length: int, start: int, stop: int
) -> tuple[ProvedBlock, float]:
    """Decide the rows `start` to `stop` of one length; returns the block and its CPU-seconds."""
    begin, digest = time.process_time(), hashlib.sha256()
    exact = _in_float64(model), _in_float64(property)
    totals = dict.fromkeys(("train", "holds", "train_holds", "close"), 0)
    smallest, counterexample = np.inf, None
    for first in range(start, stop, BATCH):
        numbers = np.arange(first, min(first + BATCH, stop))
        outcome, split = _decide(model, task, property, exact, length, numbers)
        is_train = split == SPLITS.index("train")
        digest.update(decision_bytes(outcome.decisions))
        totals["train"] += int(is_train.sum())
        totals["holds"] += int(outcome.holds.sum())
        totals["train_holds"] += int((outcome.holds & is_train).sum())
        totals["close"] += int((outcome.margins < CLOSE_MARGIN).sum())
        smallest = min(smallest, float(outcome.margins.min()))
        if counterexample is None and not outcome.holds.all():
            counterexample = int(numbers[outcome.holds.argmin()])
    margin = smallest if np.isfinite(smallest) else None
    block = ProvedBlock(
        length=length,
        start=start,
        rows=stop - start,
        margin=margin,
        digest=digest.hexdigest(),
        counterexample=counterexample,
        **totals,
    )
    return block, time.process_time() - begin


def decision_bytes(decisions: Int[np.ndarray, "batch decision"]) -> bytes:
    """The decisions of all rows as little-endian 32-bit integers, row after row."""
    return decisions[decisions != UNDECIDED].astype("<i4").tobytes()


def _decide(
    model: nn.Module,
    task: EnumerableTask,
    property: Property,
    exact: tuple[nn.Module, Property],
    length: int,
    numbers: Int[np.ndarray, " batch"],
) -> tuple[Outcome, Int[np.ndarray, " batch"]]:
    """The outcome on numbered rows, in float64 where a margin is small, and the split of each row.

    Rows below twice `CLOSE_MARGIN` are decided again: the rounding of float32 must not decide which rows are close.
    """
    batch = task.enumerate(length, numbers)
    split = batch.labels.get("split")
    if len(batch) != len(numbers) or split is None or not np.isin(split, range(len(SPLITS))).all():
        raise ToylabError(
            f"task={type(task).__name__}: enumerate gives {len(batch)} rows for {len(numbers)} numbers; it must give "
            f"one row each, with a label 'split' from 0 to {len(SPLITS) - 1}"
        )
    with torch.inference_mode():
        outcome = property(model, batch)
        if not isinstance(outcome, Outcome) or len(outcome.margins) != len(batch):
            raise ToylabError(
                f"property={property_title(property)}: must return an Outcome with one row per row of the batch"
            )
        again = np.flatnonzero(~(outcome.margins >= 2 * CLOSE_MARGIN))  # nan as well
        if len(again):
            close = exact[1](exact[0], task.enumerate(length, numbers[again]))
            width = close.decisions.shape[1]  # smaller if only longer rows have further decisions
            outcome.decisions[again, :width], outcome.fulfilled[again, :width] = close.decisions, close.fulfilled
            outcome.margins[again] = np.nan_to_num(close.margins, posinf=np.inf)
    return outcome, split


def _in_float64(value: Any) -> Any:
    """A copy of a model, or of a property with the models in its fields, in float64."""
    if isinstance(value, nn.Module):
        return deepcopy(value).double()
    if not is_dataclass(value) or isinstance(value, type):
        return value
    models = {one.name: getattr(value, one.name) for one in fields(value)}
    return replace(value, **{name: _in_float64(one) for name, one in models.items() if isinstance(one, nn.Module)})


def _sample_of_rest(
    model: nn.Module,
    task: EnumerableTask,
    property: Property,
    counts: dict[int, int],
    decided: int,
    rows: int,
    seed: int,
) -> RestSample | None:
    """Independent uniform draws from the rows after the first `decided` ones."""
    total = sum(counts.values())
    if decided == total:
        return None
    drawn = np.sort(stream(seed, "prove").integers(decided, total, size=rows))
    exact, failures, before = (_in_float64(model), _in_float64(property)), 0, 0
    for length, count in counts.items():
        numbers = drawn[(drawn >= before) & (drawn < before + count)] - before
        before += count
        for first in range(0, len(numbers), BATCH):
            outcome, _ = _decide(model, task, property, exact, length, numbers[first : first + BATCH])
            failures += int((~outcome.holds).sum())
    return RestSample(rows=rows, failures=failures)
