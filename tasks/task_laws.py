"""Laws of a task as a whole: identity, pickling, determinism across processes, splits, streams and speed."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import sys
import time
from collections.abc import Sequence
from typing import Any, get_type_hints

import numpy as np

from toylab.console import UNGUARDED
from toylab.tasks.base import SPLIT_SHARES, Batch, Split, Task, stream
from toylab.tasks.laws import (
    ENOUGH_ROWS,
    BrokenLawError,
    _need,
    _place,
    _split_key,
    _told,
    equal_batches,
    nonempty_splits,
    prompts_of,
)

PROCESS_TIMEOUT = 60.0
"""Seconds within which another process must have sampled rows of every split."""


LEAST_TOKENS_PER_SECOND = 20_000
"""Minimum tokens per CPU-second; below it, data generation limits training speed."""


def a_task_keeps_the_protocol(task: Any) -> None:
    """The task has every member of `toylab.tasks.Task`."""
    missing = [name for name in ("vocabulary", "context", "sample", "solve") if not hasattr(task, name)]
    if missing:
        raise BrokenLawError("the class", f"lacks {', '.join(missing)}", hopeless=True)


def a_task_is_immutable_and_its_fields_are_its_identity(task: Any) -> None:
    """The task is a frozen dataclass with typed fields, equal to its copy and with the same hash."""
    _need(dataclasses.is_dataclass(task), "the class", "is no dataclass: add @dataclass(frozen=True, kw_only=True)")
    hints = get_type_hints(type(task))
    for field in dataclasses.fields(task):
        _need(field.name in hints, field.name, "has no type")
        _need(field.kw_only, field.name, "can be given by place: add kw_only=True to the dataclass")
        try:
            setattr(task, field.name, getattr(task, field.name))
        except dataclasses.FrozenInstanceError:
            continue
        raise BrokenLawError(field.name, "can be changed: add frozen=True to the dataclass")
    copy = dataclasses.replace(task)
    _need(copy == task, "the class", "is not equal to its copy: do not switch eq off")
    try:
        same = hash(copy) == hash(task)
    except TypeError as error:
        raise BrokenLawError("the fields", f"cannot be hashed ({error}): use tuples in place of lists") from None
    _need(same, "the class", "hashes differently from its copy")


def a_pickled_task_is_the_same_task(task: Task) -> None:
    """Pickling preserves the task, as needed for worker processes."""
    copy = pickle.loads(_pickled(task))
    _need(copy == task, "the fields", "differ after pickling")
    _need(tuple(copy.vocabulary) == tuple(task.vocabulary), "vocabulary", "differs after pickling")
    _need(
        equal_batches(copy.sample(stream(1), 5), task.sample(stream(1), 5)),
        "sample",
        "samples other rows after pickling",
    )


def another_process_ends_and_draws_the_same_rows(task: Task) -> None:
    """A spawned process, with another hash seed and no shared state, terminates and samples the same rows."""
    theirs = _drawn_elsewhere(task)
    if "train" not in theirs:
        raise BrokenLawError("sample", "the training split holds no prompt", hopeless=True)
    ours = _draw(task)
    same = ours.keys() == theirs.keys() and all(
        equal_batches(*pair) for split in ours for pair in zip(ours[split], theirs[split], strict=True)
    )
    _need(same, "sample", "another process samples other rows: is something hashed or ordered by a set?")


def _drawn_elsewhere(task: Task) -> dict[Split, list[Batch]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, list(sys.path), _pickled(task)), daemon=True)
    process.start()
    there.close()  # recv then raises EOFError if the process dies
    script = BrokenLawError("the script", UNGUARDED, hopeless=True)
    late = BrokenLawError(
        "sample",
        f"did not end within {PROCESS_TIMEOUT:.0f} s: does it wait for prompts that do not exist?",
        hopeless=True,
    )
    ended = BrokenLawError("sample", "ended the process that called it", hopeless=True)
    try:
        for slow, lost in ((script, script), (late, ended)):
            if not here.poll(PROCESS_TIMEOUT):
                raise slow
            try:
                answer = here.recv()
            except EOFError:
                raise lost from None
            if isinstance(answer, tuple):
                raise BrokenLawError(*answer)
    finally:
        process.kill()
        process.join()
        here.close()
    return answer


def _answer(there: Any, path: list[str], task: bytes) -> None:
    """In the child: report that it started, then its rows, or the place and reason of a failure."""
    sys.path[:] = path
    there.send(True)
    try:
        held = pickle.loads(task)
    except Exception as error:
        there.send(("the class", f"is not found in another process ({_told(error)}): define the task in a module"))
        return
    try:
        there.send(_draw(held))
    except Exception as error:
        there.send((_place(error), _told(error)))


def _pickled(task: Task) -> bytes:
    try:
        return pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BrokenLawError("the class", f"cannot be pickled ({error}): define it at the top of a module") from None


def _draw(task: Task) -> dict[Split, list[Batch]]:
    return {split: [task.sample(stream(2, split), rows, split) for rows in (5, 300)] for split in nonempty_splits(task)}


def splits_hold_their_shares(task: Task) -> None:
    """In spaces small enough to exhaust, each split has its fraction of prompts, within 5 standard deviations."""
    splits = nonempty_splits(task)
    seen: dict[Split, set[tuple[int, ...]]] = {}
    for split in splits:
        first, more = (
            {_split_key(task, prompt) for prompt in prompts_of(task.sample(stream(seed, split), 2000, split))}
            for seed in (3, 4)
        )
        if len(more - first) > 0.01 * len(more):
            return  # the space is not exhausted
        seen[split] = first | more
    total = sum(map(len, seen.values()))
    shares = getattr(task, "shares", SPLIT_SHARES)
    for split, prompts in seen.items():
        share, found = shares[split], len(prompts) / total
        slack = 5 * np.sqrt(share * (1 - share) / total)
        why = f"split {split!r} holds {len(prompts)} of {total} prompts, {found:.3f}, where {share:.3f} is stated"
        _need(abs(found - share) <= slack, "sample", why)


def streams_share_no_run_of_rows(task: Task) -> None:
    """Different seeds share no run of rows at any shift, as they would with generators seeded by seed + index.

    The number of common rows must stay within 6 standard deviations of chance.
    """
    drawn = [prompts_of(task.sample(stream(seed, "runs"), ENOUGH_ROWS)) for seed in range(12)]
    number: dict[tuple[int, ...], int] = {}
    ids = np.array([[number.setdefault(prompt, len(number)) for prompt in one] for one in drawn])
    chance = float(np.sum((np.bincount(ids.ravel()) / ids.size) ** 2))  # that two rows are equal
    for shift in range(-ENOUGH_ROWS + 16, ENOUGH_ROWS - 15):
        first, second = ids[:, max(shift, 0) : ENOUGH_ROWS + shift], ids[:, max(-shift, 0) : ENOUGH_ROWS - shift]
        size = first.shape[1]
        met = (first[:, None] == second[None]).sum(axis=2)
        np.fill_diagonal(met, 0)
        limit = size * chance + 6 * np.sqrt(size * chance * (1 - chance)) + 4
        _need(met.max() <= limit, "sample", f"two seeds share {met.max()} of {size} rows at shift {abs(shift)}")


def rows_do_not_depend_on_how_many_are_drawn(task: Task) -> None:
    """Token and size frequencies agree between one batch of 300 and 300 batches of 1, within 6 deviations."""
    number = 300
    whole = _features(task, [task.sample(stream(5), number)])
    rng = stream(6)
    single = _features(task, [task.sample(rng, 1) for _ in range(number)])
    for name in whole.keys() | single.keys():
        one, other = whole.get(name, 0) / number, single.get(name, 0) / number
        middle = (one + other) / 2
        slack = 6 * np.sqrt(2 * middle * (1 - middle) / number) + 3 / number
        why = f"{name} is in {one:.2f} of the rows of a batch of {number}, but in {other:.2f} of rows sampled singly"
        _need(abs(one - other) <= slack, "sample", why)


def _features(task: Task, batches: Sequence[Batch]) -> dict[str, int]:
    """Number of rows with each token and with each size."""
    found: dict[str, int] = {}
    for batch in batches:
        for tokens, size in zip(batch.tokens.tolist(), batch.sizes.tolist(), strict=True):
            for name in {*(f"token {task.vocabulary[token]}" for token in tokens[:size]), f"size {size}"}:
                found[name] = found.get(name, 0) + 1
    return found


def rows_come_fast_enough(task: Task) -> None:
    """Sampling reaches `LEAST_TOKENS_PER_SECOND` tokens per CPU-second in batches of 256."""
    task.sample(stream(7), 256)
    best = 0.0
    for attempt in range(3):
        began = time.process_time()
        tokens = int(task.sample(stream(8, attempt), 256).sizes.sum())
        best = max(best, tokens / max(time.process_time() - began, 1e-9))
        if best >= LEAST_TOKENS_PER_SECOND:
            return
    raise BrokenLawError(
        "sample", f"makes {best:,.0f} tokens per second, {LEAST_TOKENS_PER_SECOND:,} are required: sample whole arrays"
    )


TASK_LAWS = (
    a_task_keeps_the_protocol,
    another_process_ends_and_draws_the_same_rows,  # has a timeout, so it runs before laws that sample in this process
    a_task_is_immutable_and_its_fields_are_its_identity,
    a_pickled_task_is_the_same_task,
    splits_hold_their_shares,
    streams_share_no_run_of_rows,
    rows_do_not_depend_on_how_many_are_drawn,
    rows_come_fast_enough,
)
