"""The laws that every task keeps, and a check that finds the smallest rows that break one.

    from toylab.tasks import check_task
    check_task(MyTask())

raises `BrokenLawsError`, which names each law that is broken, the field to look at and the smallest example found.
`toylab check package.module:MyTask` prints the same. What a task must offer is said in `tasks.Task`; it may say more:

    score_padding = True             scored answers go on into the padding (see `IteratedMap`)
    causal = False                   links may read what comes later
    shares = {"train": .5, ...}      the splits hold other shares of all prompts than `tasks.SHARES`
    items = {"count": 3}             the label `count` has three columns or more, one an item, not one a position
    interleaved = True               given tokens stand between answers, each the one token that `solve` says
    def split_key(self, prompt)      the part of a prompt that decides its split, if not all of it
    def facts(self, prompt)          what the labels should say of a prompt, by name, worked out from it alone
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np

from toylab.console import UNGUARDED, ToylabError, refuse_while_importing
from toylab.tasks.base import IGNORE, SHARES, SPLITS, Batch, Split, Task, decode, encode, render, stream

ENOUGH = 64
"""Rows that are drawn to see whether a split holds prompts."""
PATIENCE = 60.0
"""Seconds within which another process must have drawn rows of every split."""
SLOWEST = 20_000
"""Tokens a CPU-second below which generating would be what training waits for."""


class BrokenError(AssertionError):
    """A law does not hold: which field to look at, why, and in which row of the batch."""

    def __init__(self, look_at: str, why: str, row: int | None = None, *, hopeless: bool = False) -> None:
        super().__init__(f"{look_at}: {why}" + ("" if row is None else f" (row {row})"))
        self.look_at, self.why, self.row, self.hopeless = look_at, why, row, hopeless


@dataclass(frozen=True)
class Failure:
    """A law that is broken, with the smallest example found."""

    law: str
    look_at: str
    why: str
    example: str
    hopeless: bool = False
    """Whether nothing more can be asked of the task."""
    again: bool = False
    """Whether an earlier law failed by the same cause."""

    def __str__(self) -> str:
        indented = "\n".join(f"    {line}" for line in self.example.splitlines())
        return f"broken: {self.law}\n  look at {self.look_at}: {self.why}\n{indented}"


class BrokenLawsError(AssertionError):
    """A task breaks some laws; `failures` holds them."""

    def __init__(self, task: Any, failures: Sequence[Failure]) -> None:
        count = f"{len(failures)} of {len(LAWS)} laws"
        super().__init__("\n\n".join([f"{task} breaks {count}", *map(str, failures)]))
        self.failures = list(failures)


def _need(holds: Any, look_at: str, why: str, row: int | None = None) -> None:
    if not np.all(holds):
        raise BrokenError(look_at, why, row)


def _rows(holds: np.ndarray, look_at: str, why: str) -> None:
    """Like `_need`, for one truth a row."""
    if not np.all(holds):
        raise BrokenError(look_at, why, int(np.argmin(holds)))


def prompts_of(batch: Batch) -> list[tuple[int, ...]]:
    """What stands in each row up to the first scored position, that one included."""
    scored = batch.targets != IGNORE
    ends = scored.argmax(axis=1) + 1
    _rows(scored.any(axis=1), "targets", "nothing is scored")
    return [tuple(row[:end]) for row, end in zip(batch.tokens.tolist(), ends.tolist(), strict=True)]


def open_splits(task: Task) -> list[Split]:
    """The splits that hold prompts; of the others a task says so with `ToylabError`."""
    try:
        return list(_open_splits(task))
    except TypeError:  # a task that cannot be hashed, of which another law speaks
        return list(_open_splits.__wrapped__(task))


@functools.lru_cache(maxsize=64)
def _open_splits(task: Task) -> tuple[Split, ...]:
    found: list[Split] = []
    for split in SPLITS:
        try:
            task.sample(stream(0, "open", split), ENOUGH, split)
        except ToylabError:
            continue
        found.append(split)
    return tuple(found)


def equal(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same arrays, their types included."""
    first, second = _arrays(one), _arrays(other)
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name]) for name in first
    )


def _arrays(batch: Batch) -> dict[Any, np.ndarray]:
    plain: dict[Any, np.ndarray] = {name: getattr(batch, name) for name in ("tokens", "targets", "sizes")}
    links = {("link", name): edges for name, edges in batch.links.items()}
    return plain | links | {("label", name): values for name, values in batch.labels.items()}


# Laws of a batch -----------------------------------------------------------------------------------------------------


def arrays_have_their_shapes_and_types(task: Task, batch: Batch) -> None:
    """Tokens and targets [row, position], sizes [row], links [edge, 3], all of them int64."""
    rows, positions = len(batch), batch.tokens.shape[-1]
    shapes = {"tokens": (rows, positions), "targets": (rows, positions), "sizes": (rows,)}
    for name, shape in shapes.items():
        values = getattr(batch, name)
        _need(values.shape == shape, name, f"has shape {values.shape}, not {shape}")
        _need(values.dtype == np.int64, name, f"is {values.dtype}, not int64: smaller types overflow in silence")
    for name, edges in batch.links.items():
        _need(edges.ndim == 2 and edges.shape[1] == 3, f"links[{name!r}]", f"has shape {edges.shape}, not (edges, 3)")
        _need(edges.dtype == np.int64, f"links[{name!r}]", f"is {edges.dtype}, not int64")


def every_token_and_target_is_in_the_vocabulary(task: Task, batch: Batch) -> None:
    """Ids run from 0 to the size of the vocabulary less one; targets may also be `IGNORE`."""
    size = len(task.vocabulary)
    for name, allowed in (("tokens", batch.tokens), ("targets", np.where(batch.targets == IGNORE, 0, batch.targets))):
        inside = (allowed >= 0) & (allowed < size)
        _rows(inside.all(axis=1), name, f"an id is outside the {size} of the vocabulary")


def sizes_say_where_one_padding_token_begins(task: Task, batch: Batch) -> None:
    """A row ends with its last scored position; after that one token repeats, the same in all rows."""
    positions = batch.tokens.shape[1]
    _need(positions <= task.context, "context", f"is {task.context}, but a row takes {positions} positions")
    _rows((batch.sizes >= 1) & (batch.sizes <= positions), "sizes", f"must be 1 to {positions}")
    padding = np.arange(positions) >= batch.sizes[:, None]
    found = set(batch.tokens[padding].tolist())
    _need(len(found) <= 1, "tokens", f"the padding is of several tokens: {sorted(found)}")
    scored = batch.targets != IGNORE
    first, last = scored.argmax(axis=1), positions - 1 - scored[:, ::-1].argmax(axis=1)
    _rows(scored.any(axis=1), "targets", "nothing is scored")
    _rows(first < batch.sizes, "sizes", "the row ends before what is scored")
    if not getattr(task, "score_padding", False):
        _rows(last == batch.sizes - 1, "sizes", "the row must end with its last scored position")


def scored_positions_are_one_run(task: Task, batch: Batch) -> None:
    """The answer is scored from its first token to its last, without a hole, unless the task is `interleaved`."""
    scored = batch.targets != IGNORE
    _rows(scored.any(axis=1), "targets", "nothing is scored")
    if getattr(task, "interleaved", False):
        return
    begins = (np.diff(scored.astype(int), axis=1, prepend=0) == 1).sum(axis=1)
    _rows(begins == 1, "targets", "the scored positions have a hole")


def the_target_of_a_position_is_the_token_after_it(task: Task, batch: Batch) -> None:
    """What should be predicted is what comes next in the row, as far as the row goes."""
    inside = np.arange(1, batch.tokens.shape[1]) < batch.sizes[:, None]  # the end itself need not be read
    scored = (batch.targets[:, :-1] != IGNORE) & (inside | getattr(task, "score_padding", False))
    right = (batch.targets[:, :-1] == batch.tokens[:, 1:]) | ~scored
    _rows(right.all(axis=1), "targets", "a target is not the next token: is the mask off by one?")


def the_oracle_continues_every_prompt_with_the_targets(task: Task, batch: Batch) -> None:
    """`solve`, given what stands up to the first scored position, says all that is scored, and nothing else.

    If the task is `interleaved`, it is given what stands up to each of them, and says the one token that follows.
    """
    if getattr(task, "interleaved", False):
        for row, position in zip(*np.nonzero(batch.targets != IGNORE), strict=True):
            answer, target = task.solve(batch.tokens[row, : position + 1].tolist()), batch.targets[row, position]
            _need(list(answer) == [target], "solve or targets", f"{target} is scored, solve says {answer}", int(row))
        return
    for row, (prompt, targets) in enumerate(zip(prompts_of(batch), batch.targets.tolist(), strict=True)):
        scored = [target for target in targets if target != IGNORE]
        answer = [int(token) for token in task.solve(prompt)]
        more = scored[len(answer) :]
        _need(scored[: len(answer)] == answer, "solve or targets", f"{scored} is scored, solve says {answer}", row)
        allowed = set(answer[-1:]) if getattr(task, "score_padding", False) else set()
        _need(set(more) <= allowed, "targets", f"{more} is scored after the end of the answer", row)


def links_stay_inside_their_row_and_read_no_future(task: Task, batch: Batch) -> None:
    """Edges (row, query, key) are sorted by row, given once, and lead back unless the task is not `causal`."""
    for name, edges in batch.links.items():
        row, query, key = edges.T
        field = f"links[{name!r}]"
        _need((row >= 0) & (row < len(batch)), field, "an edge is of no row of the batch")
        _need(np.diff(row) >= 0, field, "edges are not sorted by row")
        size = batch.sizes[row]
        inside = (query >= 0) & (query < size) & (key >= 0) & (key < size)
        _edge(inside, row, field, "an edge stands outside its row")
        if getattr(task, "causal", True):
            _edge(key <= query, row, field, "a key comes after its query")
        _need(len(np.unique(edges, axis=0)) == len(edges), field, "an edge is given twice")


def _edge(holds: np.ndarray, rows: np.ndarray, field: str, why: str) -> None:
    if not np.all(holds):
        raise BrokenError(field, why, int(rows[np.argmin(holds)]))


def labels_have_one_entry_a_row_or_a_position(task: Task, batch: Batch) -> None:
    """Shape [row], [row, position], or [row, item] for a label that the task names in `items`."""
    items = getattr(task, "items", {})
    for name, values in batch.labels.items():
        field = f"labels[{name!r}]"
        if name in items:
            fits = values.ndim == 2 and len(values) == len(batch) and values.shape[1] >= items[name]
            _need(fits, field, f"has shape {values.shape}, not ({len(batch)}, {items[name]} or more)")
        else:
            allowed = batch.sizes.shape, batch.tokens.shape
            _need(values.shape in allowed, field, f"has shape {values.shape}, not {allowed[0]} or {allowed[1]}")


def labels_say_what_the_prompt_says(task: Task, batch: Batch) -> None:
    """Labels agree with `facts`, for a task that has it; those it does not name are not looked at."""
    if not hasattr(task, "facts"):
        return
    for row, prompt in enumerate(prompts_of(batch)):
        for name, fact in task.facts(prompt).items():
            _need(name in batch.labels, f"labels[{name!r}]", "is missing, and facts names it", row)
            said = np.ravel(batch.labels[name][row]).tolist()
            known = np.ravel(fact).tolist()
            _need(said[: len(known)] == known, f"labels[{name!r}]", f"says {said}, the prompt says {known}", row)


def slices_of_a_batch_are_the_whole(task: Task, batch: Batch) -> None:
    """`rows` cuts a batch into parts that say together what it said."""
    middle = len(batch) // 3
    parts = batch.rows(0, middle), batch.rows(middle, len(batch))
    starts = (0, middle)
    links = {
        name: np.concatenate([part.links[name] + [start, 0, 0] for part, start in zip(parts, starts, strict=True)])
        for name in batch.links
    }
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "targets", "sizes")}
    labels = {name: np.concatenate([part.labels[name] for part in parts]) for name in batch.labels}
    whole = Batch(**arrays, links=links, labels=labels)
    _need(equal(whole, batch), "links", "cutting the batch into rows loses or moves something")


# Laws of a task, at any seed -----------------------------------------------------------------------------------------


def token_names_are_unique_and_survive_a_round_trip(task: Task, seed: int) -> None:
    """`encode` undoes `decode`."""
    _need(len(set(task.vocabulary)) == len(task.vocabulary), "vocabulary", "two tokens have one name")
    tokens = np.random.default_rng(seed).integers(len(task.vocabulary), size=12).tolist()
    _need(encode(task, decode(task, tokens)) == tokens, "vocabulary", f"{tokens} do not survive decode and encode")


def the_seed_and_the_settings_decide_every_bit(task: Task, seed: int) -> None:
    """The same generator draws the same rows, from an equal task and after other draws."""
    again = dataclasses.replace(task) if dataclasses.is_dataclass(task) else task
    for split in open_splits(task):
        first = task.sample(stream(seed), 9, split)
        again.sample(stream(seed, "between"), 3, split)
        same = equal(first, again.sample(stream(seed), 9, split))
        _need(same, "sample", f"two draws of split {split!r} with one seed differ: is there randomness beside rng?")


def no_prompt_is_in_two_splits(task: Task, seed: int) -> None:
    """Hold-outs are by content: a prompt is in one split only, whatever its padding or the rows beside it."""
    seen: dict[tuple[int, ...], Split] = {}
    for split in open_splits(task):
        rng = stream(seed, split)
        drawn = [task.sample(rng, rows, split) for rows in (ENOUGH, *[1] * 8)]
        for part in (_split_key(task, prompt) for batch in drawn for prompt in prompts_of(batch)):
            other = seen.setdefault(part, split)
            _need(other == split, "sample", f"{decode(task, part)} is in {other!r} and in {split!r}")


def _split_key(task: Task, prompt: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(task.split_key(prompt)) if hasattr(task, "split_key") else prompt


def a_sample_has_as_many_rows_as_asked_for(task: Task, seed: int) -> None:
    """Also none and one."""
    for rows in (0, 1, 2, 17):
        batch = task.sample(stream(seed), rows)
        _need(len(batch) == rows, "sample", f"{rows} rows were asked for, {len(batch)} came")
        _need(all(rows or not len(edges) for edges in batch.links.values()), "links", "no rows, but links")


# Laws of a task, looked at once --------------------------------------------------------------------------------------


def a_task_keeps_the_protocol(task: Any) -> None:
    """It has all that `tasks.Task` names."""
    missing = [name for name in ("vocabulary", "context", "sample", "solve") if not hasattr(task, name)]
    if missing:
        raise BrokenError("the class", f"lacks {', '.join(missing)}", hopeless=True)


def a_task_is_immutable_and_its_fields_are_its_identity(task: Task) -> None:
    """A frozen dataclass of typed fields, that is equal to its copy and hashes like it."""
    _need(dataclasses.is_dataclass(task), "the class", "is no dataclass: add @dataclass(frozen=True, kw_only=True)")
    hints = get_type_hints(type(task))
    for field in dataclasses.fields(task):
        _need(field.name in hints, field.name, "has no type")
        _need(field.kw_only, field.name, "can be given by place: add kw_only=True to the dataclass")
        try:
            setattr(task, field.name, getattr(task, field.name))
        except dataclasses.FrozenInstanceError:
            continue
        raise BrokenError(field.name, "can be changed: add frozen=True to the dataclass")
    copy = dataclasses.replace(task)
    _need(copy == task, "the class", "is not equal to its copy: do not switch eq off")
    try:
        same = hash(copy) == hash(task)
    except TypeError as error:
        raise BrokenError("the fields", f"cannot be hashed ({error}): use tuples in place of lists") from None
    _need(same, "the class", "hashes differently from its copy")


def a_pickled_task_is_the_same_task(task: Task) -> None:
    """So that worker processes can be given it."""
    copy = pickle.loads(_pickled(task))
    _need(copy == task, "the fields", "differ after pickling")
    _need(tuple(copy.vocabulary) == tuple(task.vocabulary), "vocabulary", "differs after pickling")
    _need(equal(copy.sample(stream(1), 5), task.sample(stream(1), 5)), "sample", "draws other rows after pickling")


def another_process_ends_and_draws_the_same_rows(task: Task) -> None:
    """A new process has no hash seed, no cache and no global state of this one, and must come to an end."""
    theirs = _drawn_elsewhere(task)
    if "train" not in theirs:
        raise BrokenError("sample", "the training split holds no prompt", hopeless=True)
    ours = _draw(task)
    same = ours.keys() == theirs.keys() and all(
        equal(*pair) for split in ours for pair in zip(ours[split], theirs[split], strict=True)
    )
    _need(same, "sample", "another process draws other rows: is something hashed or ordered by a set?")


def _drawn_elsewhere(task: Task) -> dict[Split, list[Batch]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, list(sys.path), _pickled(task)), daemon=True)
    process.start()
    there.close()  # so that this end is told when the process ends without an answer
    script = BrokenError("the script", UNGUARDED, hopeless=True)
    late = BrokenError(
        "sample", f"did not end within {PATIENCE:.0f} s: does it wait for prompts that do not exist?", hopeless=True
    )
    ended = BrokenError("sample", "ended the process that called it", hopeless=True)
    try:
        for slow, lost in ((script, script), (late, ended)):
            if not here.poll(PATIENCE):
                raise slow
            try:
                answer = here.recv()
            except EOFError:
                raise lost from None
            if isinstance(answer, tuple):
                raise BrokenError(*answer)
    finally:
        process.kill()
        process.join()
        here.close()
    return answer


def _answer(there: Any, path: list[str], task: bytes) -> None:
    """Say that the process has started, then which rows it draws, or where to look and why there are none."""
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
        raise BrokenError("the class", f"cannot be pickled ({error}): define it at the top of a module") from None


def _draw(task: Task) -> dict[Split, list[Batch]]:
    return {split: [task.sample(stream(2, split), rows, split) for rows in (5, 300)] for split in open_splits(task)}


def splits_hold_their_shares(task: Task) -> None:
    """Where prompts are so few that all are seen, each split holds its share of them, by up to five deviations."""
    splits = open_splits(task)
    seen: dict[Split, set[tuple[int, ...]]] = {}
    for split in splits:
        first, more = (
            {_split_key(task, prompt) for prompt in prompts_of(task.sample(stream(seed, split), 2000, split))}
            for seed in (3, 4)
        )
        if len(more - first) > 0.01 * len(more):
            return  # there are many more than were seen
        seen[split] = first | more
    total = sum(map(len, seen.values()))
    shares = getattr(task, "shares", SHARES)
    for split, prompts in seen.items():
        share, found = shares[split], len(prompts) / total
        slack = 5 * np.sqrt(share * (1 - share) / total)
        why = f"split {split!r} holds {len(prompts)} of {total} prompts, {found:.3f}, where {share:.3f} is stated"
        _need(abs(found - share) <= slack, "sample", why)


def streams_share_no_run_of_rows(task: Task) -> None:
    """Rows come from the generator as it goes on, not from a seed plus an index: neighbours would share rows.

    Two seeds may share as many rows, at any shift of one against the other, as chance brings in a space this small, by
    up to six deviations.
    """
    drawn = [prompts_of(task.sample(stream(seed, "runs"), ENOUGH)) for seed in range(12)]
    number: dict[tuple[int, ...], int] = {}
    ids = np.array([[number.setdefault(prompt, len(number)) for prompt in one] for one in drawn])
    chance = float(np.sum((np.bincount(ids.ravel()) / ids.size) ** 2))  # that two rows meet
    for shift in range(-ENOUGH + 16, ENOUGH - 15):
        first, second = ids[:, max(shift, 0) : ENOUGH + shift], ids[:, max(-shift, 0) : ENOUGH - shift]
        size = first.shape[1]
        met = (first[:, None] == second[None]).sum(axis=2)
        np.fill_diagonal(met, 0)
        limit = size * chance + 6 * np.sqrt(size * chance * (1 - chance)) + 4
        _need(met.max() <= limit, "sample", f"two seeds share {met.max()} of {size} rows, one moved by {abs(shift)}")


def rows_do_not_depend_on_how_many_are_drawn(task: Task) -> None:
    """One batch of 300 rows and 300 batches of one hold each token and each size as often, by up to six deviations."""
    number = 300
    whole = _features(task, [task.sample(stream(5), number)])
    rng = stream(6)
    single = _features(task, [task.sample(rng, 1) for _ in range(number)])
    for name in whole.keys() | single.keys():
        one, other = whole.get(name, 0) / number, single.get(name, 0) / number
        middle = (one + other) / 2
        slack = 6 * np.sqrt(2 * middle * (1 - middle) / number) + 3 / number
        why = f"{name} is in {one:.2f} of the rows of a batch of {number}, but in {other:.2f} of rows drawn singly"
        _need(abs(one - other) <= slack, "sample", why)


def _features(task: Task, batches: Sequence[Batch]) -> dict[str, int]:
    """How many rows hold each token, and how many have each size."""
    found: dict[str, int] = {}
    for batch in batches:
        for tokens, size in zip(batch.tokens.tolist(), batch.sizes.tolist(), strict=True):
            for name in {*(f"token {task.vocabulary[token]}" for token in tokens[:size]), f"size {size}"}:
                found[name] = found.get(name, 0) + 1
    return found


def rows_come_fast_enough(task: Task) -> None:
    """At least `SLOWEST` tokens a CPU-second, in batches of 256."""
    task.sample(stream(7), 256)
    best = 0.0
    for attempt in range(3):
        began = time.process_time()
        tokens = int(task.sample(stream(8, attempt), 256).sizes.sum())
        best = max(best, tokens / max(time.process_time() - began, 1e-9))
        if best >= SLOWEST:
            return
    raise BrokenError("sample", f"makes {best:,.0f} tokens a second, {SLOWEST:,} are asked: draw whole arrays")


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
TASK_LAWS = (
    a_task_keeps_the_protocol,
    another_process_ends_and_draws_the_same_rows,  # before this one asks for rows, and waits for ever
    a_task_is_immutable_and_its_fields_are_its_identity,
    a_pickled_task_is_the_same_task,
    splits_hold_their_shares,
    streams_share_no_run_of_rows,
    rows_do_not_depend_on_how_many_are_drawn,
    rows_come_fast_enough,
)
LAWS: tuple[Callable, ...] = (*TASK_LAWS, *SEED_LAWS, *BATCH_LAWS)
"""All laws, in the order in which they are checked."""


def sentence(law: Callable) -> str:
    """The name of a law in words."""
    return law.__name__.replace("_", " ")


# The check -----------------------------------------------------------------------------------------------------------


def check_task(task: Any, *, examples: int = 30) -> None:
    """Check that a task keeps every law.

    Args:
        task: with the settings to check it at.
        examples: batches or seeds that each law is tried on; what fails is then made as small as it goes.

    Raises:
        BrokenLawsError: if it breaks any: each cause with a law, the field to look at and the smallest example.
    """
    failures = [failure for _, failure in verdicts(task, examples=examples) if failure and not failure.again]
    if failures:
        raise BrokenLawsError(task, failures)


def verdicts(task: Any, *, examples: int = 30) -> Iterator[tuple[Callable, Failure | None]]:
    """Each law in turn, with how the task breaks it, if it does.

    A task that lacks something, that does not come to an end or has no prompts for training is not asked further.
    """
    refuse_while_importing()
    causes = set()
    for law in LAWS:
        failure = failure_of(law, task, examples)
        if failure:
            cause = failure.look_at, failure.why.partition(": ")[0]  # without what only this example has
            failure = dataclasses.replace(failure, again=cause in causes)
            causes.add(cause)
        yield law, failure
        if failure and failure.hopeless:
            return


def failure_of(law: Callable, task: Any, examples: int = 30) -> Failure | None:
    """How a task breaks one law, by the smallest example that hypothesis finds; None if it keeps it."""
    case: dict[str, Any] = {}
    try:
        if law in TASK_LAWS:
            law(task)
        else:
            _search(law, task, examples, case)
    except BrokenError as error:
        return Failure(sentence(law), error.look_at, error.why, _shown(task, case, error.row), error.hopeless)
    except Exception as error:  # a task of somebody else may fail in any way, and that is an answer too
        return Failure(sentence(law), _place(error), _told(error), _shown(task, case, None))
    return None


def _search(law: Callable, task: Task, examples: int, case: dict[str, Any]) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    from toylab.tasks.strategies import batches

    quiet = settings(
        max_examples=int(examples),
        database=None,
        deadline=None,
        derandomize=True,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    of_batches = law in BATCH_LAWS

    @quiet
    @given(batches(task) if of_batches else st.integers(0, 2**31))
    def holds(drawn: Any) -> None:
        case.clear()
        case["batch" if of_batches else "seed"] = drawn
        law(task, drawn)

    holds()


def _shown(task: Any, case: dict[str, Any], row: int | None) -> str:
    if "seed" in case:
        return f"{task}, seed {case['seed']}"
    if "batch" not in case:
        return str(task)
    batch = case["batch"]
    try:
        return f"{task}\n{render(task, batch, row or 0)}"
    except Exception:  # what is broken may be what `render` needs
        return f"{task}\ntokens {batch.tokens.tolist()}\ntargets {batch.targets.tolist()}\nsizes {batch.sizes.tolist()}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _place(error: Exception) -> str:
    """The function, file and line in which an error arose."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "the class"
    code = trace.tb_frame.f_code
    return f"{code.co_name} ({code.co_filename}:{trace.tb_lineno})"
