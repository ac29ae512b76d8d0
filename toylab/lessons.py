"""The answer key of the lessons in `notebooks/`: each exercise is checked, and what is wrong brings the next hint.

    check("iteration.mass", mass)

says whether `mass` is right. If not it names a case where it is not, and gives a hint, another one at each further
attempt. Checks know the answers by another way than the library does what the exercise teaches.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tasks import IteratedMap, Polynomial, stream
from toylab.names import unknown

Answer = Callable[..., Any]
Verdict = str | None
"""What is wrong, in a sentence; None if nothing is."""


@dataclass(frozen=True)
class Exercise:
    """One question of a lesson.

    Attributes:
        wrong: what is wrong with an answer, or None; it may raise whatever the answer raises.
        hints: one an attempt, the last one again and again.
        right: what a right answer is good for.
    """

    wrong: Callable[[Any], Verdict]
    hints: tuple[str, ...]
    right: str


def check(name: str, answer: Any) -> None:
    """Say whether an answer is right, and give a hint if it is not. An answer of `...` is still to come.

    Raises:
        ValueError: for an exercise that there is not.
    """
    if name not in EXERCISES:
        raise unknown("exercise", name, EXERCISES)
    exercise = EXERCISES[name]
    try:
        if answer is ...:
            raise _WaitingError
        wrong = exercise.wrong(_waiting(answer))
    except _WaitingError:
        print(f"{name}: waiting for your answer. Put it in the place of the dots and run this cell again.")
        return
    except Exception as error:  # whatever the answer of a learner does, it is told in one line
        wrong = f"it raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}."
    if wrong is None:
        print(f"{name}: right. {exercise.right}")
        return
    number = min(_attempts[name], len(exercise.hints) - 1)
    _attempts[name] += 1
    print(f"{name}: not yet; {wrong}\nHint {number + 1} of {len(exercise.hints)}: {exercise.hints[number]}")


_attempts: Counter[str] = Counter()


class _WaitingError(Exception):
    """Dots stand where an answer will be."""


def _waiting(answer: Any) -> Any:
    """The same function, which says so where it returns dots; anything else as it is."""
    if not callable(answer) or isinstance(answer, type):
        return answer

    def call(*arguments: Any) -> Any:
        said = answer(*arguments)
        if said is ...:
            raise _WaitingError
        return said

    return call


def _differs(said: Any, expected: Any, of: str, tolerance: float = 1e-6) -> Verdict:
    """A complaint if two numbers, or arrays of numbers, are not the same."""
    if isinstance(said, torch.Tensor):
        said = said.detach()
    if said is None:
        return f"{of} you return nothing."
    said, expected = np.asarray(said, dtype=float), np.asarray(expected, dtype=float)
    if said.shape != expected.shape:
        return f"{of} you give the shape {said.shape}; it should be {expected.shape}."
    if not np.allclose(said, expected, rtol=tolerance, atol=tolerance):
        return f"{of} you say {_short(said)}, which is not so."
    return None


def _short(values: np.ndarray) -> str:
    flat = values.ravel()
    return ", ".join(f"{value:.4g}" for value in flat[:5]) + (", ..." if flat.size > 5 else "")


def _first(complaints: Any) -> Verdict:
    return next((one for one in complaints if one is not None), None)


# 00: the tour --------------------------------------------------------------------------------------------------------


def _carry(reads: Answer) -> Verdict:
    """The links of drawn rows are the truth."""
    batch = Polynomial(lengths=(2, 9)).sample(stream(11, "lesson"), 12)
    for row, query, key in batch.links["carry"].tolist():
        length = int(batch.labels["length"][row])
        said = tuple(int(place) for place in reads(length, key))
        if said != (query, key):
            return f"for length {length} and t = {key} you say {said}, and the link says another pair of positions."
    return None


def _smallest(kind: type) -> Verdict:
    if not (isinstance(kind, type) and issubclass(kind, IteratedMap)):
        return f"{kind!r} is no class of IteratedMap."
    task, rng = kind(lengths=(1, 8)), np.random.default_rng([12, 0])
    for _ in range(20):
        inputs = rng.integers(task.values, size=int(rng.integers(1, 9)))
        expected = [sorted(inputs[: t + 1])[0] for t in range(len(inputs))]
        if list(task.trace(inputs.tolist(), None)) != expected:
            return f"for the inputs {inputs.tolist()} your trace says {task.trace(inputs.tolist(), None)}."
        for before, x in zip(expected, inputs[1:], strict=False):
            if int(task.step(np.array(before), np.array(x))) != min(before, x):
                return f"your step from state {before} with input {x} gives {task.step(np.array(before), np.array(x))}."
    return None


# 01: iteration heads -------------------------------------------------------------------------------------------------


def _distance(distance: Answer) -> Verdict:
    for length in (1, 4, 16):
        names = ["task", *(f"x{t}" for t in range(1, length + 1)), "EoI", *(f"s{t}" for t in range(1, length + 1))]
        for t in range(1, length + 1):
            back = names.index(f"s{t}") - 1 - names.index(f"x{t}")
            if complaint := _differs(distance(length), back, f"for length {length}"):
                return complaint
    return None


def _steered(foretell: Answer) -> Verdict:
    rng = np.random.default_rng([13, 0])
    for _ in range(10):
        inputs = rng.integers(1, 11, size=int(rng.integers(3, 9))).tolist()
        states = [1]
        for x in inputs:
            states.append((states[-1] * x + 1) % 11)
        expected = [(s * x + 1) % 11 for s, x in zip(states, inputs[1:], strict=False)]
        if list(foretell(inputs, states)) != expected:
            return f"for inputs {inputs} and states {states} you foretell {list(foretell(inputs, states))}."
    return None


def _mass(mass: Answer) -> Verdict:
    rng = np.random.default_rng([14, 0])
    for batch, heads, size in ((1, 1, 3), (2, 3, 7)):
        pattern = rng.dirichlet(np.ones(size), size=(batch, heads, size))
        links = np.stack([rng.integers(n, size=6) for n in (batch, size, size)], axis=1)
        expected = [sum(pattern[b, h, q, k] for b, q, k in links) / 6 for h in range(heads)]
        said = mass(torch.from_numpy(pattern), links)
        if complaint := _differs(said, expected, f"for a pattern of {heads} heads and six links"):
            return complaint
    return None


# 02: counting --------------------------------------------------------------------------------------------------------


def _tally(attend: Answer) -> Verdict:
    """Every token is written out once, and softmax does the rest."""
    rng = np.random.default_rng([15, 0])
    for types in (2, 5):
        scores, values = rng.normal(size=types), rng.normal(size=(types, 3))
        counts = rng.integers(0, 6, size=types)
        counts[0] += 1
        tokens = np.repeat(np.arange(types), counts)
        weights = np.exp(scores[tokens]) / np.exp(scores[tokens]).sum()
        expected = weights @ values[tokens]
        said = attend(torch.from_numpy(scores), torch.from_numpy(counts), torch.from_numpy(values))
        if complaint := _differs(said, expected, f"for counts {counts.tolist()}"):
            return complaint
    return None


def _count(count: Answer) -> Verdict:
    pairs = [(n, k) for n in (0, 1, 7, 30) for k in (0.5, 4.0, 13.0)]
    return _first(_differs(count(n / (n + k), k), n, f"for n = {n} and K = {k}") for n, k in pairs)


def _elsewhere(foretold: Answer) -> Verdict:
    """The count is sought that would have given the same attention with the old weight."""

    def same(n: int, k: float, now: float) -> float:
        low, high = 0.0, 1e4
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if middle / (middle + k) < n / (n + now) else (low, middle)
        return low

    cases = [(5, 4.0, 8.0), (12, 10.0, 10.0), (3, 6.0, 2.0)]
    return _first(
        _differs(foretold(*case), same(*case), "for n = {}, K = {} and K' = {}".format(*case)) for case in cases
    )


# 03: safety fine-tuning ----------------------------------------------------------------------------------------------


def _chance(chance: Answer) -> Verdict:
    """Dimensions are counted with a matrix of each size."""
    for rows, columns in ((256, 64), (10, 9), (8, 8), (4, 12)):
        matrix = np.random.default_rng([16, rows]).normal(size=(rows, columns))
        expected = 1 - np.linalg.matrix_rank(matrix) / rows
        if complaint := _differs(chance(rows, columns), expected, f"for a weight of {rows} x {columns}"):
            return complaint
    return None


def _null_share(share: Answer) -> Verdict:
    """What the weight can explain of the change is found by least squares; the rest is in the left null space."""
    rng = np.random.default_rng([17, 0])
    for rows, columns in ((12, 3), (20, 5)):
        weight, change = rng.normal(size=(rows, columns)), rng.normal(size=(rows, columns))
        explained = weight @ np.linalg.lstsq(weight, change, rcond=None)[0]
        expected = ((change - explained) ** 2).sum() / (change**2).sum()
        said = share(torch.from_numpy(change), torch.from_numpy(weight))
        if complaint := _differs(said, expected, f"for a change and a weight of {rows} x {columns}"):
            return complaint
    return None


def _push(push: Answer) -> Verdict:
    """The slope is measured, not derived."""

    def loss(beta: float, gain: float) -> float:
        return math.log1p(math.exp(-beta * gain))

    cases = [(1.0, 0.0), (0.1, 0.0), (0.1, 30.0), (1.0, -2.0)]
    return _first(
        _differs(
            push(beta, gain), (loss(beta, gain - 1e-5) - loss(beta, gain + 1e-5)) / 2e-5,
            f"for beta = {beta} and a gain of {gain} nats", 1e-4,
        )
        for beta, gain in cases
    )  # fmt: skip


# 04: steering vectors ------------------------------------------------------------------------------------------------


def _advantages(advantages: Answer) -> Verdict:
    rewards = np.random.default_rng([18, 0]).integers(0, 2, size=(3, 5)).astype(float)
    rewards[2] = 1
    expected = [[row[i] - np.mean([*row[:i], *row[i + 1 :]]) for i in range(5)] for row in rewards]
    return _differs(advantages(torch.from_numpy(rewards)), expected, f"for the rewards {rewards[0].tolist()}, ...")


def _portion(portion: Answer) -> Verdict:
    cases = [((0.2, 0.6, 1.0), 0.5), ((0.2, 0.2, 0.99), 0.0), ((0.25, 0.2, 0.75), -0.1)]
    return _first(
        _differs(portion(*case), share, "for a base of {}, steered {} and full training {}".format(*case))
        for case, share in cases
    )


def _reach(reach: Answer) -> Verdict:
    """Vectors across the stream are tried, and the norm divides as it does in a model; the best direction is kept."""
    rng = np.random.default_rng([19, 0])
    for width, length, norm in ((16, 40.0, 15.0), (64, 75.0, 15.0)):
        basis = np.linalg.qr(rng.normal(size=(width, 3)))[0].T
        stream_, this, other = length * basis[0], 2 * basis[1], 2 * basis[2]

        def normalised(x: np.ndarray, width: int = width) -> np.ndarray:
            return math.sqrt(width) * x / np.linalg.norm(x)

        across = norm * (this - other) / np.linalg.norm(this - other)
        expected = (this - other) @ (normalised(stream_ + across) - normalised(stream_))
        said = reach(torch.from_numpy(this), torch.from_numpy(other), length, norm)
        if complaint := _differs(said, expected, f"for width {width}, a stream {length} long and a vector of {norm}"):
            return complaint
    return None


# 05: your own --------------------------------------------------------------------------------------------------------


def _before(solve: Answer) -> Verdict:
    rng = np.random.default_rng([20, 0])
    for _ in range(20):
        letters = rng.choice(list("abcdefgh"), size=int(rng.integers(2, 12))).tolist()
        star = int(rng.integers(1, len(letters) + 1))
        row = "".join([*letters[:star], "*", *letters[star:], "?"])
        if solve(row) != letters[star - 1]:
            return f"of {row!r} you say {solve(row)!r}."
    return None


def _detector(detector: Any) -> Verdict:
    from toylab.calibration import Detector, calibrate

    if not isinstance(detector, Detector):
        return f"{type(detector).__name__} is no Detector."
    asked = replace(detector, look=_waiting(detector.look))
    found = calibrate(asked, seed=21, each=10, levels=())  # a seed that the lesson does not use
    if found.hits.share < 1:
        return f"on fresh cases it finds {found.hits} of the plants."
    if found.false_alarms.share > 0:
        return f"on fresh cases {found.false_alarms} of the look-alikes pass for the real thing."
    return None


EXERCISES: dict[str, Exercise] = {
    "tour.carry": Exercise(
        _carry,
        (
            "a row is task, x_1 ... x_L, EoI, s_1 ...: write the position below each token for L = 3.",
            "s_1 is predicted where EoI stands; at which position is that?",
            "the input x_t stands at position t, and s_t is due L positions later.",
        ),
        "This pair is all that a probe needs to know about the task.",
    ),
    "tour.smallest": Exercise(
        _smallest,
        (
            "copy Maximum, give it a name of its own, and ask which word in it has to change.",
            "numpy has np.minimum for whole arrays; the oracle may use Python's min on a list.",
        ),
        "Step and trace were written in two ways, so each now guards the other.",
    ),
    "iteration.distance": Exercise(
        _distance,
        (
            "count on your fingers for L = 3: where does x_2 stand, and where s_1, at which s_2 is due?",
            "both move one place to the right with t, so t drops out.",
        ),
        "It depends on the length, and on nothing else: the head must know where the input ended.",
    ),
    "iteration.steered": Exercise(
        _steered,
        (
            "the state before is the true one; only the input is the wrong one.",
            "states has s_0 in front: s_{t-1} and x_{t+1} are states[t - 1] and inputs[t].",
            "the last state has no next input, so there is one answer less than inputs.",
        ),
        "You have just written the whole mechanism; the next cell asks the model whether it agrees.",
    ),
    "iteration.mass": Exercise(
        _mass,
        (
            "a link is (row, query, key); a pattern is (row, head, query, key).",
            "torch picks many places at once: pattern[rows, :, queries, keys] has a line a link and a column a head.",
            "the mean over links is what is asked, one number a head.",
        ),
        "`probes.link_mass` is this line, with errors for what cannot be meant.",
    ),
    "counting.tally": Exercise(
        _tally,
        (
            "n equal tokens with score s have together the weight n e^s.",
            "that is e^(s + log n), so softmax(scores + log(counts)); mind the types that are not there.",
        ),
        "Five types instead of five hundred tokens, and not one bit lost: attention without positions is linear.",
    ),
    "counting.count": Exercise(
        _count,
        ("solve mass = n / (n + K) for n.", "multiply by n + K, and collect what has an n."),
        "The output layer of a counter has to learn this curve, which grows steep where the mass comes near 1.",
    ),
    "counting.elsewhere": Exercise(
        _elsewhere,
        (
            "first: how much attention do n ones get with K'? Then: which count would that be with K?",
            "put n / (n + K') into your answer to the exercise before; most of it cancels.",
        ),
        "One multiplication foretells what a network does where it was never trained.",
    ),
    "safety.chance": Exercise(
        _chance,
        (
            "how many dimensions can the columns of W reach, at most? How many are there?",
            "a random direction has an equal share of its energy in every dimension.",
            "a weight that has more columns than rows leaves nothing out.",
        ),
        "Three quarters, for the shape of most MLPs, before anything was learned.",
    ),
    "safety.null_share": Exercise(
        _null_share,
        (
            "an orthonormal basis of what W reaches comes from torch.linalg.qr(W) or from its svd.",
            "with Q that basis, Q Q^T change is the part within reach.",
            "energy is the sum of squares; what is asked is the part out of reach over the whole.",
        ),
        "`probes.null_share` gives the chance level and its spread beside it.",
    ),
    "safety.push": Exercise(
        _push,
        (
            "the loss is -log sigmoid(beta * gain); take the derivative with respect to the gain, and turn its sign.",
            "the derivative of log sigmoid(x) is sigmoid(-x); the inner derivative is beta.",
        ),
        "At a gain of 0 the push is beta / 2 for any beta; at 30 nats and beta .1 it is nearly gone.",
    ),
    "steering.advantages": Exercise(
        _advantages,
        (
            "each answer is compared with the mean of the *other* answers to its prompt.",
            "the sum of the others is the whole sum minus the answer's own reward, and there is one less of them.",
        ),
        "A group that is all right or all wrong has advantages of 0: it teaches nothing.",
    ),
    "steering.portion": Exercise(
        _portion,
        ("a gain is what is added to the base.", "the gain of the steered model over the gain of full training."),
        "It can be below 0; and it speaks of one temperature.",
    ),
    "steering.reach": Exercise(
        _reach,
        (
            "the final norm makes every stream sqrt(width) long; a vector across it turns it and lengthens it.",
            "with the vector, the stream is sqrt(length^2 + norm^2) long before the norm.",
            "the best one points along the difference of the rows: sqrt(width) * norm * |difference| over that length.",
        ),
        "Two rows and a length foretell, before any training, whether 64 numbers can move this choice.",
    ),
    "own.before": Exercise(
        _before,
        ("split the row at the star.", "the answer is the last letter of what stands in front of it."),
        "An oracle that says it in other words than the sampler catches what both would get wrong together.",
    ),
    "own.detector": Exercise(
        _detector,
        (
            "replace(mine, look=...) takes your function; the sharpest head is not the question.",
            "the links say where attention should fall; `link_mass` gives one number a head.",
        ),
        "It was tried on cases that neither you nor the bar had seen.",
    ),
}
