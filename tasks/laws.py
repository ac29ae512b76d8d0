"""Laws that every task must satisfy, as property-based tests on batches and seeds.

    from toylab.tasks import check_task
    check_task(MyTask())

raises `BrokenLawsError`, which lists each broken law, the field at fault and the smallest counterexample found.
`toylab check package.module:MyTask` prints the same. `toylab.tasks.Task` is the required protocol; optional attributes:

    score_padding = True             the loss includes padding (see `IteratedMap`)
    causal = False                   links may point to later positions
    shares = {"train": .5, ...}      split fractions, if not `toylab.tasks.SPLIT_SHARES`
    items = {"count": 3}             the label `count` has at least three columns, one per item instead of per position
    interleaved = True               input tokens alternate with answers of one token, each predicted by `solve`
    next_token = True                every position is scored, `solve` returns all tokens that may follow, and splits
                                     divide whole rows, since rows share prefixes
    def split_key(self, prompt)      the part of a prompt that determines its split, if not all of it
    def label_oracle(self, prompt)   expected labels of a prompt, by name, computed from the prompt alone
    sampled_lengths, count, enumerate  a numbering of all rows, see `toylab.tasks.enumeration.EnumerableTask`
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from toylab.console import ToylabError
from toylab.tasks.base import IGNORE, SPLITS, Batch, Split, Task, decode, encode, stream


class BrokenLawError(AssertionError):
    """A broken law: the field at fault, the reason, and the row of the batch."""

    def __init__(self, look_at: str, why: str, row: int | None = None, *, hopeless: bool = False) -> None:
        super().__init__(f"{look_at}: {why}" + ("" if row is None else f" (row {row})"))
        self.look_at, self.why, self.row, self.hopeless = look_at, why, row, hopeless


def _require(holds: Any, look_at: str, why: str, row: int | None = None) -> None:
    if not np.all(holds):
        raise BrokenLawError(look_at, why, row)


def _require_rows(holds: np.ndarray, look_at: str, why: str) -> None:
    """Like `_require`, with one condition per row."""
    if not np.all(holds):
        raise BrokenLawError(look_at, why, int(np.argmin(holds)))


def prompts_of(batch: Batch) -> list[tuple[int, ...]]:
    """The prompt of each row: its tokens up to and including the first scored position."""
    scored = batch.targets != IGNORE
    prompt_sizes = scored.argmax(axis=1) + 1
    _require_rows(scored.any(axis=1), "targets", "nothing is scored")
    return [tuple(row[:end]) for row, end in zip(batch.tokens.tolist(), prompt_sizes.tolist(), strict=True)]


def contents_of(task: Task, batch: Batch) -> list[tuple[int, ...]]:
    """What decides the split of each row: its prompt or the `split_key` of it, or the whole row if `next_token`."""
    if getattr(task, "next_token", False):
        rows = zip(batch.tokens.tolist(), batch.targets.tolist(), batch.sizes.tolist(), strict=True)
        return [(*tokens[:size], targets[size - 1]) for tokens, targets, size in rows]
    split_key = getattr(task, "split_key", tuple)
    return [tuple(split_key(prompt)) for prompt in prompts_of(batch)]


def nonempty_splits(task: Task) -> list[Split]:
    """Splits with prompts; sampling from an empty split raises `ToylabError`."""
    try:
        return list(_nonempty_splits(task))
    except TypeError:  # an unhashable task: checked by another law
        return list(_nonempty_splits.__wrapped__(task))


@functools.lru_cache(maxsize=64)
def _nonempty_splits(task: Task) -> tuple[Split, ...]:
    splits: list[Split] = []
    for split in SPLITS:
        try:
            task.sample(stream(0, "open", split), ENOUGH_ROWS, split)
        except ToylabError:
            continue
        splits.append(split)
    return tuple(splits)


def equal_batches(first: Batch, second: Batch) -> bool:
    """Whether two batches have equal arrays and dtypes."""
    first_arrays, second_arrays = _arrays(first), _arrays(second)
    return first_arrays.keys() == second_arrays.keys() and all(
        first_arrays[name].dtype == second_arrays[name].dtype
        and np.array_equal(first_arrays[name], second_arrays[name])
        for name in first_arrays
    )


def _arrays(batch: Batch) -> dict[Any, np.ndarray]:
    plain: dict[Any, np.ndarray] = {name: getattr(batch, name) for name in ("tokens", "targets", "sizes")}
    links = {("link", name): edges for name, edges in batch.links.items()}
    return plain | links | {("label", name): values for name, values in batch.labels.items()}


def concatenate_batches(parts: Sequence[Batch]) -> Batch:
    """One batch of the rows of several, which have equal widths and names."""
    starts = np.cumsum([0, *map(len, parts[:-1])])

    def whole(arrays: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(arrays))

    return Batch(
        tokens=whole(part.tokens for part in parts),
        targets=whole(part.targets for part in parts),
        sizes=whole(part.sizes for part in parts),
        links={
            name: whole(part.links[name] + np.array([start, 0, 0]) for part, start in zip(parts, starts, strict=True))
            for name in parts[0].links
        },
        labels={name: whole(part.labels[name] for part in parts) for name in parts[0].labels},
    )


# Laws of a batch -----------------------------------------------------------------------------------------------------


def arrays_have_their_shapes_and_types(task: Task, batch: Batch) -> None:
    """Tokens and targets [row, position], sizes [row], links [edge, 3], all of them int64."""
    rows, positions = len(batch), batch.tokens.shape[-1]
    shapes = {"tokens": (rows, positions), "targets": (rows, positions), "sizes": (rows,)}
    for name, shape in shapes.items():
        values = getattr(batch, name)
        _require(values.shape == shape, name, f"has shape {values.shape}, not {shape}")
        _require(values.dtype == np.int64, name, f"is {values.dtype}, not int64: smaller types overflow in silence")
    for name, edges in batch.links.items():
        _require(
            edges.ndim == 2 and edges.shape[1] == 3, f"links[{name!r}]", f"has shape {edges.shape}, not (edges, 3)"
        )
        _require(edges.dtype == np.int64, f"links[{name!r}]", f"is {edges.dtype}, not int64")


def every_token_and_target_is_in_the_vocabulary(task: Task, batch: Batch) -> None:
    """Ids run from 0 to vocabulary size - 1; targets may also be `IGNORE`."""
    size = len(task.vocabulary)
    for name, allowed in (("tokens", batch.tokens), ("targets", np.where(batch.targets == IGNORE, 0, batch.targets))):
        inside = (allowed >= 0) & (allowed < size)
        _require_rows(np.all(inside, axis=1), name, f"an id is outside the {size} of the vocabulary")


def sizes_say_where_one_padding_token_begins(task: Task, batch: Batch) -> None:
    """`sizes` ends a row at its last scored position; all padding is one token."""
    positions = batch.tokens.shape[1]
    _require(positions <= task.context, "context", f"is {task.context}, but a row takes {positions} positions")
    _require_rows((batch.sizes >= 1) & (batch.sizes <= positions), "sizes", f"must be 1 to {positions}")
    padding = np.arange(positions) >= batch.sizes[:, None]
    padding_tokens = set(batch.tokens[padding].tolist())
    _require(len(padding_tokens) <= 1, "tokens", f"the padding is of several tokens: {sorted(padding_tokens)}")
    scored = batch.targets != IGNORE
    first, last = scored.argmax(axis=1), positions - 1 - scored[:, ::-1].argmax(axis=1)
    _require_rows(scored.any(axis=1), "targets", "nothing is scored")
    _require_rows(first < batch.sizes, "sizes", "the row ends before what is scored")
    if not getattr(task, "score_padding", False):
        _require_rows(last == batch.sizes - 1, "sizes", "the row must end with its last scored position")


def scored_positions_are_one_run(task: Task, batch: Batch) -> None:
    """Scored positions are contiguous, unless the task is `interleaved`, and all positions if it is `next_token`."""
    scored = batch.targets != IGNORE
    _require_rows(scored.any(axis=1), "targets", "nothing is scored")
    if getattr(task, "next_token", False):
        _require_rows(scored[:, 0], "targets", "the first position is not scored, and next_token = True says so")
    if getattr(task, "interleaved", False):
        return
    run_starts = (np.diff(scored.astype(int), axis=1, prepend=0) == 1).sum(axis=1)
    _require_rows(run_starts == 1, "targets", "the scored positions have a hole")


def the_target_of_a_position_is_the_token_after_it(task: Task, batch: Batch) -> None:
    """The target of a scored position equals the next token of the row."""
    inside = np.arange(1, batch.tokens.shape[1]) < batch.sizes[:, None]  # the final token is a target only
    scored = (batch.targets[:, :-1] != IGNORE) & (inside | getattr(task, "score_padding", False))
    is_next_token = (batch.targets[:, :-1] == batch.tokens[:, 1:]) | ~scored
    _require_rows(is_next_token.all(axis=1), "targets", "a target is not the next token: is the mask off by one?")


def the_oracle_continues_every_prompt_with_the_targets(task: Task, batch: Batch) -> None:
    """`solve` of a prompt returns exactly the targets of the row.

    If the task is `interleaved`, `solve` receives the row up to each scored position and returns its one target; if it
    is `next_token`, all tokens that may follow.
    """
    is_open, is_interleaved = getattr(task, "next_token", False), getattr(task, "interleaved", False)
    if is_open or is_interleaved:
        for row, position in zip(*np.nonzero(batch.targets != IGNORE), strict=True):
            answer, target = list(task.solve(batch.tokens[row, : position + 1].tolist())), batch.targets[row, position]
            holds, verb = (target in answer, "allows") if is_open else (answer == [target], "says")
            _require(holds, "solve or targets", f"{target} is scored, solve {verb} {answer}", int(row))
            is_all = is_open and len(set(answer)) == len(task.vocabulary)
            _require(not is_all, "solve", "allows every token of the vocabulary, so no row could be wrong", int(row))
        return
    for row, (prompt, targets) in enumerate(zip(prompts_of(batch), batch.targets.tolist(), strict=True)):
        scored = [target for target in targets if target != IGNORE]
        answer = [int(token) for token in task.solve(prompt)]
        extra = scored[len(answer) :]
        _require(scored[: len(answer)] == answer, "solve or targets", f"{scored} is scored, solve says {answer}", row)
        allowed = set(answer[-1:]) if getattr(task, "score_padding", False) else set()
        _require(set(extra) <= allowed, "targets", f"{extra} is scored after the end of the answer", row)


def links_stay_inside_their_row_and_read_no_future(task: Task, batch: Batch) -> None:
    """Edges (row, query, key) are sorted by row and unique, with key <= query if the task is `causal`."""
    for name, edges in batch.links.items():
        row, query, key = edges.T
        field = f"links[{name!r}]"
        _require((row >= 0) & (row < len(batch)), field, "an edge is of no row of the batch")
        _require(np.diff(row) >= 0, field, "edges are not sorted by row")
        size = batch.sizes[row]
        inside = (query >= 0) & (query < size) & (key >= 0) & (key < size)
        _edge(inside, row, field, "an edge stands outside its row")
        if getattr(task, "causal", True):
            _edge(key <= query, row, field, "a key comes after its query")
        _require(len(np.unique(edges, axis=0)) == len(edges), field, "an edge is given twice")


def _edge(holds: np.ndarray, rows: np.ndarray, field: str, why: str) -> None:
    if not np.all(holds):
        raise BrokenLawError(field, why, int(rows[np.argmin(holds)]))


def labels_have_one_entry_a_row_or_a_position(task: Task, batch: Batch) -> None:
    """Labels have shape [row], [row, position], or, if listed in `items`, [row, item]."""
    items = getattr(task, "items", {})
    for name, values in batch.labels.items():
        field = f"labels[{name!r}]"
        if name in items:
            fits = values.ndim == 2 and len(values) == len(batch) and values.shape[1] >= items[name]
            _require(fits, field, f"has shape {values.shape}, not ({len(batch)}, {items[name]} or more)")
        else:
            allowed = batch.sizes.shape, batch.tokens.shape
            _require(values.shape in allowed, field, f"has shape {values.shape}, not {allowed[0]} or {allowed[1]}")


def labels_say_what_the_prompt_says(task: Task, batch: Batch) -> None:
    """Labels agree with `label_oracle`, if the task has one; labels it does not return are not checked."""
    label_oracle = getattr(task, "label_oracle", None)
    if label_oracle is None:
        return
    is_whole = getattr(task, "next_token", False)
    rows = [row[:-1] for row in contents_of(task, batch)] if is_whole else prompts_of(batch)
    for row, prompt in enumerate(rows):
        for name, fact in label_oracle(prompt).items():
            _require(name in batch.labels, f"labels[{name!r}]", "is missing, and label_oracle returns it", row)
            label = np.ravel(batch.labels[name][row]).tolist()
            expected = np.ravel(fact).tolist()
            _require(
                label[: len(expected)] == expected,
                f"labels[{name!r}]",
                f"says {label}, the prompt says {expected}",
                row,
            )


def slices_of_a_batch_are_the_whole(task: Task, batch: Batch) -> None:
    """The concatenation of slices by `Batch.rows` is the batch."""
    middle = len(batch) // 3
    joined = concatenate_batches([batch.rows(0, middle), batch.rows(middle, len(batch))])
    _require(equal_batches(joined, batch), "links", "cutting the batch into rows loses or moves something")


# Laws of a task, at any seed -----------------------------------------------------------------------------------------


def token_names_are_unique_and_survive_a_round_trip(task: Task, seed: int) -> None:
    """`encode` inverts `decode`, and token names are unique."""
    _require(len(set(task.vocabulary)) == len(task.vocabulary), "vocabulary", "two tokens have one name")
    tokens = np.random.default_rng(seed).integers(len(task.vocabulary), size=12).tolist()
    _require(encode(task, decode(task, tokens)) == tokens, "vocabulary", f"{tokens} do not survive decode and encode")


def the_seed_and_the_settings_decide_every_bit(task: Task, seed: int) -> None:
    """Equal seeds and settings give bit-identical rows, also after other samples were taken."""
    again = dataclasses.replace(task) if dataclasses.is_dataclass(task) else task
    for split in nonempty_splits(task):
        first = task.sample(stream(seed), 9, split)
        again.sample(stream(seed, "between"), 3, split)
        is_equal = equal_batches(first, again.sample(stream(seed), 9, split))
        _require(
            is_equal, "sample", f"two samples of split {split!r} with one seed differ: is there randomness beside rng?"
        )


def no_prompt_is_in_two_splits(task: Task, seed: int) -> None:
    """Splits are by content: a prompt (`contents_of`) is in one split, regardless of padding or other rows."""
    split_by_content: dict[tuple[int, ...], Split] = {}
    for split in nonempty_splits(task):
        rng = stream(seed)  # of every split, which a sampler that ignores the split cannot tell apart
        batches = [task.sample(rng, rows, split) for rows in (ENOUGH_ROWS, 1, 1, 2)]
        batches += [task.sample(stream(seed, split), 1, split) for _ in range(1)]
        for batch in batches:
            for key in contents_of(task, batch):
                known = split_by_content.setdefault(key, split)
                why = f"{decode(task, key)} is in {known!r} and in {split!r}; {_split_remedy(batch)}"
                _require(known == split, "sample", why)


def _split_remedy(batch: Batch) -> str:
    if (batch.targets[:, 0] != IGNORE).all():
        return (
            "rows that are scored from their first position share prefixes: set next_token = True, let split_of of the "
            "whole row choose the split, and let solve return all tokens that may follow"
        )
    return "let split_of of the prompt choose the split; if a part of it decides, return this part from split_key"


def a_sample_has_as_many_rows_as_asked_for(task: Task, seed: int) -> None:
    """`sample` returns the requested number of rows, including 0 and 1."""
    for rows in (0, 1, 2, 17):
        batch = task.sample(stream(seed), rows)
        _require(len(batch) == rows, "sample", f"{rows} rows were requested, {len(batch)} returned")
        _require(all(rows or not len(edges) for edges in batch.links.values()), "links", "no rows, but links")


BATCH_LAWS = (
    arrays_have_their_shapes_and_types,
    every_token_and_target_is_in_the_vocabulary,
    scored_positions_are_one_run,
    sizes_say_where_one_padding_token_begins,
    the_target_of_a_position_is_the_token_after_it,
    the_oracle_continues_every_prompt_with_the_targets,
    links_stay_inside_their_row_and_read_no_future,
    labels_have_one_entry_a_row_or_a_position,
    labels_say_what_the_prompt_says,
    slices_of_a_batch_are_the_whole,
)
SEED_LAWS = (
    token_names_are_unique_and_survive_a_round_trip,
    the_seed_and_the_settings_decide_every_bit,
    no_prompt_is_in_two_splits,
    a_sample_has_as_many_rows_as_asked_for,
)


# The check -----------------------------------------------------------------------------------------------------------


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _error_location(error: Exception) -> str:
    """Function, file and line that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "the class"
    code = trace.tb_frame.f_code
    return f"{code.co_name} ({code.co_filename}:{trace.tb_lineno})"


ENOUGH_ROWS = 64
"""Rows sampled to check whether a split is empty."""
