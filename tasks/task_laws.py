"""Laws of a task as a whole: identity, pickling, determinism across processes, splits, streams and speed."""

from __future__ import annotations

import dataclasses
import multiprocessing
import operator
import pickle
import sys
import time
from collections.abc import Sequence
from typing import Any, get_type_hints

import numpy as np

from toylab.console import UNGUARDED
from toylab.tasks.base import SPLIT_SHARES, SPLITS, Batch, Split, Task, stream
from toylab.tasks.enumeration import EnumerableTask
from toylab.tasks.laws import (
    ENOUGH_ROWS,
    BrokenLawError,
    _error_location,
    _error_text,
    _require,
    arrays_have_their_shapes_and_types,
    contents_of,
    equal_batches,
    nonempty_splits,
    prompts_of,
    the_oracle_continues_every_prompt_with_the_targets,
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
    _require(dataclasses.is_dataclass(task), "the class", "is no dataclass: add @dataclass(frozen=True, kw_only=True)")
    hints = get_type_hints(type(task))
    for field in dataclasses.fields(task):
        _require(field.name in hints, field.name, "has no type")
        _require(field.kw_only, field.name, "can be given by place: add kw_only=True to the dataclass")
        try:
            setattr(task, field.name, getattr(task, field.name))
        except dataclasses.FrozenInstanceError:
            continue
        raise BrokenLawError(field.name, "can be changed: add frozen=True to the dataclass")
    copy = dataclasses.replace(task)
    _require(copy == task, "the class", "is not equal to its copy: do not switch eq off")
    try:
        same = hash(copy) == hash(task)
    except TypeError as error:
        raise BrokenLawError("the fields", f"cannot be hashed ({error}): use tuples in place of lists") from None
    _require(same, "the class", "hashes differently from its copy")


def a_pickled_task_is_the_same_task(task: Task) -> None:
    """Pickling preserves the task, as needed for worker processes."""
    copy = pickle.loads(_pickle_task(task))
    _require(copy == task, "the fields", "differ after pickling")
    _require(tuple(copy.vocabulary) == tuple(task.vocabulary), "vocabulary", "differs after pickling")
    _require(
        equal_batches(copy.sample(stream(1), 5), task.sample(stream(1), 5)),
        "sample",
        "samples other rows after pickling",
    )


def another_process_ends_and_draws_the_same_rows(task: Task) -> None:
    """A spawned process, with another hash seed and no shared state, terminates and samples the same rows."""
    spawned = _sample_in_process(task)
    if "train" not in spawned:
        raise BrokenLawError("sample", "the training split holds no prompt", hopeless=True)
    local = _sample_splits(task)
    is_equal = local.keys() == spawned.keys() and all(
        equal_batches(*pair) for split in local for pair in zip(local[split], spawned[split], strict=True)
    )
    _require(is_equal, "sample", "another process samples other rows: is something hashed or ordered by a set?")


def _sample_in_process(task: Task) -> dict[Split, list[Batch]]:
    context = multiprocessing.get_context("spawn")
    connection, child_connection = context.Pipe()
    process = context.Process(
        target=_send_samples, args=(child_connection, list(sys.path), _pickle_task(task)), daemon=True
    )
    process.start()
    child_connection.close()  # recv then raises EOFError if the process dies
    unguarded_error = BrokenLawError("the script", UNGUARDED, hopeless=True)
    timeout_error = BrokenLawError(
        "sample",
        f"did not end within {PROCESS_TIMEOUT:.0f} s: does it wait for prompts that do not exist?",
        hopeless=True,
    )
    exit_error = BrokenLawError("sample", "ended the process that called it", hopeless=True)
    try:
        for error_if_slow, error_if_closed in ((unguarded_error, unguarded_error), (timeout_error, exit_error)):
            if not connection.poll(PROCESS_TIMEOUT):
                raise error_if_slow
            try:
                message = connection.recv()
            except EOFError:
                raise error_if_closed from None
            if isinstance(message, tuple):
                raise BrokenLawError(*message)
    finally:
        process.kill()
        process.join()
        connection.close()
    return message


def _send_samples(connection: Any, path: list[str], task: bytes) -> None:
    """In the child: report that it started, then its rows, or the place and reason of a failure."""
    sys.path[:] = path
    connection.send(True)
    try:
        copy = pickle.loads(task)
    except Exception as error:
        connection.send(
            ("the class", f"is not found in another process ({_error_text(error)}): define the task in a module")
        )
        return
    try:
        connection.send(_sample_splits(copy))
    except Exception as error:
        connection.send((_error_location(error), _error_text(error)))


def _pickle_task(task: Task) -> bytes:
    try:
        return pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BrokenLawError("the class", f"cannot be pickled ({error}): define it at the top of a module") from None


def _sample_splits(task: Task) -> dict[Split, list[Batch]]:
    return {split: [task.sample(stream(2, split), rows, split) for rows in (5, 300)] for split in nonempty_splits(task)}


def splits_hold_their_shares(task: Task) -> None:
    """In spaces small enough to exhaust, each split has its fraction of prompts, within 5 standard deviations."""
    splits = nonempty_splits(task)
    prompts_by_split: dict[Split, set[tuple[int, ...]]] = {}
    for split in splits:
        first, second = (set(contents_of(task, task.sample(stream(seed, split), 2000, split))) for seed in (3, 4))
        if len(second - first) > 0.01 * len(second):
            return  # the space is not exhausted
        prompts_by_split[split] = first | second
    total = sum(map(len, prompts_by_split.values()))
    shares = getattr(task, "shares", SPLIT_SHARES)
    for split, prompts in prompts_by_split.items():
        share, measured = shares[split], len(prompts) / total
        slack = 5 * np.sqrt(share * (1 - share) / total)
        why = f"split {split!r} holds {len(prompts)} of {total} prompts, {measured:.3f}, where {share:.3f} is stated"
        _require(abs(measured - share) <= slack, "sample", why)


def streams_share_no_run_of_rows(task: Task) -> None:
    """Different seeds share no run of rows at any shift, as they would with generators seeded by seed + index, and no
    seed repeats its own.

    The number of common rows must stay within 6 standard deviations of chance.
    """
    prompts_by_seed = [contents_of(task, task.sample(stream(seed, "runs"), ENOUGH_ROWS)) for seed in range(12)]
    prompt_ids: dict[tuple[int, ...], int] = {}
    ids = np.array(
        [
            [prompt_ids.setdefault(prompt, len(prompt_ids)) for prompt in seed_prompts]
            for seed_prompts in prompts_by_seed
        ]
    )
    chance = float(np.sum((np.bincount(ids.ravel()) / ids.size) ** 2))  # that two rows are equal
    for shift in range(-ENOUGH_ROWS + 16, ENOUGH_ROWS - 15):
        first, second = ids[:, max(shift, 0) : ENOUGH_ROWS + shift], ids[:, max(-shift, 0) : ENOUGH_ROWS - shift]
        size = first.shape[1]
        matches = (first[:, None] == second[None]).sum(axis=2)
        if shift == 0:
            np.fill_diagonal(matches, 0)
        limit = size * chance + 6 * np.sqrt(size * chance * (1 - chance)) + 4
        most = matches.max()
        who = "a seed repeats" if np.diagonal(matches).max() == most else "two seeds share"
        _require(most <= limit, "sample", f"{who} {most} of {size} rows at shift {abs(shift)}")


def rows_do_not_depend_on_how_many_are_drawn(task: Task) -> None:
    """Token and size frequencies agree between one batch of 300 and 300 batches of 1, within 6 deviations."""
    number = 300
    joint = _features(task, [task.sample(stream(5), number)])
    rng = stream(6)
    single = _features(task, [task.sample(rng, 1) for _ in range(number)])
    for name in joint.keys() | single.keys():
        batch_share, single_share = joint.get(name, 0) / number, single.get(name, 0) / number
        middle = (batch_share + single_share) / 2
        slack = 6 * np.sqrt(2 * middle * (1 - middle) / number) + 3 / number
        why = (
            f"{name} is in {batch_share:.2f} of the rows of a batch of {number}, but in {single_share:.2f} of rows "
            "sampled singly"
        )
        _require(abs(batch_share - single_share) <= slack, "sample", why)


def _features(task: Task, batches: Sequence[Batch]) -> dict[str, int]:
    """Number of rows with each token and with each size."""
    row_counts: dict[str, int] = {}
    for batch in batches:
        for tokens, size in zip(batch.tokens.tolist(), batch.sizes.tolist(), strict=True):
            for name in {*(f"token {task.vocabulary[token]}" for token in tokens[:size]), f"size {size}"}:
                row_counts[name] = row_counts.get(name, 0) + 1
    return row_counts


def rows_come_fast_enough(task: Task) -> None:
    """Sampling reaches `LEAST_TOKENS_PER_SECOND` tokens per CPU-second in batches of 256."""
    task.sample(stream(7), 256)
    best = 0.0
    for attempt in range(3):
        start = time.process_time()
        tokens = int(task.sample(stream(8, attempt), 256).sizes.sum())
        best = max(best, tokens / max(time.process_time() - start, 1e-9))
        if best >= LEAST_TOKENS_PER_SECOND:
            return
    raise BrokenLawError(
        "sample", f"makes {best:,.0f} tokens per second, {LEAST_TOKENS_PER_SECOND:,} are required: sample whole arrays"
    )


def the_enumeration_lists_the_rows_that_are_sampled(task: Task) -> None:
    """A task with `enumerate` lists distinct rows in order, as the reference solution continues them; each sampled row
    is among them, found by bisection, with its split, and each listed token is sampled."""
    if not isinstance(task, EnumerableTask):
        return
    sampled = {split: task.sample(stream(9, split), 400, split) for split in nonempty_splits(task)}
    listed_tokens, rng = set(), stream(9, "numbers")
    counts = {length: min(task.count(length), _LARGEST) for length in task.sampled_lengths}
    for length, count in counts.items():
        numbers = np.append(rng.integers(count, size=40 * (count > 0)), [0, 1, count - 2, count - 1])
        numbers = np.unique(numbers[(numbers >= 0) & (numbers < count)])
        batch = task.enumerate(length, numbers)
        _require(len(batch) == len(numbers), "enumerate", f"{len(numbers)} rows were requested, {len(batch)} returned")
        arrays_have_their_shapes_and_types(task, batch)
        the_oracle_continues_every_prompt_with_the_targets(task, batch)
        rows = _rows_of(batch)
        _require(all(map(operator.lt, rows, rows[1:])), "enumerate", f"rows of length {length} are not in order")
        listed_tokens |= {token for prompt in prompts_of(batch) for token in prompt}
    missing = listed_tokens - {token for batch in sampled.values() for prompt in prompts_of(batch) for token in prompt}
    _require(not missing, "enumerate", f"lists the tokens {sorted(missing)}, which are not sampled")
    for split, batch in sampled.items():
        rows = _rows_of(batch)[:12]
        for length, count in counts.items():
            found = _splits_listed(task, length, count, rows)
            for row, listed_in in zip(rows, found, strict=True):
                why = f"puts {row} into {listed_in!r}, and it is sampled from {split!r}"
                _require(listed_in in (None, split), "enumerate", why)
            rows = [row for row, listed_in in zip(rows, found, strict=True) if listed_in is None]
        if max(counts.values()) < _LARGEST:
            _require(not rows, "enumerate", f"does not list {rows[:1]}, which is sampled")


_LARGEST = 2**62
"""Rows are listed up to this number, since numpy's integers end at 2^63 - 1."""


def _rows_of(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(row[:size]) for row, size in zip(batch.tokens.tolist(), batch.sizes.tolist(), strict=True)]


def _splits_listed(task: EnumerableTask, length: int, count: int, rows: list[tuple[int, ...]]) -> list[Split | None]:
    """The split that the enumeration of a length gives each row, found by bisection; None where it is not listed."""
    if not count:
        return [None] * len(rows)
    low, high = np.zeros(len(rows), dtype=np.int64), np.full(len(rows), count - 1)
    while (low < high).any():
        middle = (low + high) // 2
        listed_rows = _rows_of(task.enumerate(length, middle))
        is_after = np.array([listed < row for listed, row in zip(listed_rows, rows, strict=True)])
        low, high = np.where(is_after & (low < high), middle + 1, low), np.where(is_after, high, middle)
    batch = task.enumerate(length, low)
    return [
        SPLITS[split] if listed == row else None
        for listed, row, split in zip(_rows_of(batch), rows, batch.labels["split"].tolist(), strict=True)
    ]


TASK_LAWS = (
    a_task_keeps_the_protocol,
    another_process_ends_and_draws_the_same_rows,  # has a timeout, so it runs before laws that sample in this process
    a_task_is_immutable_and_its_fields_are_its_identity,
    a_pickled_task_is_the_same_task,
    splits_hold_their_shares,
    the_enumeration_lists_the_rows_that_are_sampled,
    streams_share_no_run_of_rows,
    rows_do_not_depend_on_how_many_are_drawn,
    rows_come_fast_enough,
)
