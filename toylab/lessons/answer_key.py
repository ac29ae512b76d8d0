"""The answer key of the notebooks: the check of each exercise, with the oracle that it compares answers with.

Cases are sampled from a fixed seed. Each oracle is independent of the library function that the exercise teaches: it
lists rows token by token, differentiates, searches, or simulates the predicted quantity. A check returns None for a
correct answer, and raises one of the three errors of `toylab.lessons.answers` otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from toylab.calibration.patterns import one_head_patterns
from toylab.lessons.answers import UnfitError, WrongError, _call, _compare, _numbers, _rng, _row, _token_at, _try, _type
from toylab.tasks import Batch, IteratedMap, Polynomial, Task
from toylab.tasks.check import LAWS, find_failure
from toylab.tasks.task_laws import another_process_ends_and_draws_the_same_rows

# 00, the tour --------------------------------------------------------------------------------------------------------


def carry(answer: Any) -> None:
    """The pair (query, key) of the carry link of s_t, against a row written out token by token."""
    for length in range(1, 7):
        row = _row(length)
        for t in range(1, length + 1):
            query, key = _numbers(_call(answer, length=length, t=t), (2,))
            case = f"For length={length}, t={t} your answer is ({query:g}, {key:g})"
            if query != row.index(f"s_{t}") - 1:
                raise WrongError(f"{case}: {_token_at(row, query)}, and s_{t} is not the next token.")
            if key != row.index(f"x_{t}"):
                raise WrongError(f"{case}: {_token_at(row, key)}, which is not the input that s_{t} needs.")


def form_loss(answer: Any) -> None:
    """The loss of a model that copies s_1, predicts EoS, and guesses every other state uniformly."""

    def oracle(length: int) -> float:
        """Mean cross entropy over the targets, from the logits of such a model."""
        known, guess = torch.full((13,), -torch.inf), torch.full((13,), -torch.inf)
        known[0], guess[:11] = 0, 0
        logits = torch.stack([known, *[guess] * (length - 1), known]).double()
        return F.cross_entropy(logits, torch.zeros(length + 1, dtype=torch.long)).item()

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        if case["length"] == 1:
            return "such a row has the scored tokens s_1 and EoS, and this model knows both"
        return "the mean cross entropy over the scored tokens of such a row is different"

    _compare(answer, [{"length": length} for length in (1, 2, 5, 8, 16)], oracle, breaks)


def maximum(answer: Any) -> None:
    """A task class whose state is the running maximum, in `step` and in `trace`."""
    if not (isinstance(answer, type) and issubclass(answer, IteratedMap)):
        raise UnfitError("pass the class itself, a subclass of IteratedMap.")
    task = _try(lambda: answer(lengths=(1, 5)), "making Maximum(lengths=(1, 5))")
    rng = _rng("maximum")
    states, inputs = rng.integers(10, size=(2, 8))

    def larger(states: np.ndarray, inputs: np.ndarray) -> list[int]:
        return [sorted(pair)[-1] for pair in zip(states.tolist(), inputs.tolist(), strict=True)]

    _compare(task.step, [{"states": states, "inputs": inputs}], larger, lambda *_: "`step` is not the maximum")
    for start in (None, 0):
        for row in (rng.integers(10, size=size).tolist() for size in (1, 3, 5)):
            result = _call(task.trace, inputs=row, start=start)
            expected = [sorted(row[:t])[-1] for t in range(1, len(row) + 1)]
            if _numbers(result, (len(row),)).tolist() != expected:
                raise WrongError(f"For the inputs {row} `trace` gives {result}: a state is not the running maximum.")
    _keep_the_laws(task)


def _keep_the_laws(task: Task) -> None:
    """Check all laws of a task except one: other processes cannot import a class defined in a notebook."""
    for law in LAWS:
        if law is not another_process_ends_and_draws_the_same_rows:
            failure = find_failure(law, task, 10)
            if failure is not None:
                why = " ".join(failure.why.split())[:200]
                raise WrongError(f"A law is broken, {failure.law!r}. Look at {failure.look_at}: {why}.")


# 01, iteration heads -------------------------------------------------------------------------------------------------


def address(answer: Any) -> None:
    """The position that a query attends to, given its position and the position of EoI."""
    for length in range(1, 7):
        row = _row(length)
        end = row.index("EoI")
        for position in range(end, len(row)):
            result = float(_numbers(_call(answer, position=position, end=end)))
            case = f"For position={position}, end={end} your answer is {result:g}: {_token_at(row, result)}"
            if position == len(row) - 1 and result != end:
                raise WrongError(f"{case}, but all states are written: only EoI itself can indicate that.")
            if position < len(row) - 1 and result != row.index(row[position + 1].replace("s", "x")):
                raise WrongError(f"{case}, but {row[position + 1]} is due.")


def steered(answer: Any) -> None:
    """The answers of a model whose iteration head attends to x_(t+1) instead of x_t."""
    task, rng = Polynomial(), _rng("steered")

    def oracle(inputs: list[int], states: list[int]) -> list[int]:
        """Solve, for each answer, the prompt that ends with the next input in place of the correct one."""
        prompts = [[*inputs[:t], inputs[t + 1]] for t in range(len(inputs) - 1)]
        return [task.solve([task.task_token, *prompt, task.end_of_input])[-2] for prompt in prompts]

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        t = int(np.argmax(result != oracle(**case))) + 1
        before = f"s_{t - 1} and " if t > 1 else ""
        return f"the answer for s_{t} does not follow from {before}x_{t + 1} = {case['inputs'][t]}"

    cases = []
    for length in (2, 3, 5, 8):
        inputs = rng.integers(1, 11, size=length).tolist()
        cases.append({"inputs": inputs, "states": task.trace(inputs, None)})
    _compare(answer, cases, oracle, breaks)


def peaky(answer: Any) -> None:
    """Peakiness by head: the share of linked queries with more than half of their attention on linked keys."""
    rng = _rng("peaky")

    def oracle(pattern: torch.Tensor, links: np.ndarray) -> list[float]:
        heads = []
        for head in range(pattern.shape[1]):
            mass_of_query: dict[tuple[int, int], float] = {}
            for row, query, key in links.tolist():
                mass_of_query[row, query] = mass_of_query.get((row, query), 0) + float(pattern[row, head, query, key])
            heads.append(sum(mass > 0.5 for mass in mass_of_query.values()) / len(mass_of_query))
        return heads

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        links = case["links"]
        if len(np.unique(links[:, :2], axis=0)) == len(links):
            return "with one linked key per query, the share of peaky queries is different"
        return "a query with two linked keys is one query; sum its attention on both keys"

    cases = []
    for keys in (1, 2):
        pattern = torch.from_numpy(rng.dirichlet(np.full(6, 0.3), size=(3, 2, 6)))
        linked_queries = [(row, query) for row in range(3) for query in range(2, 6)]
        edges = [(*pair, key) for pair in linked_queries for key in rng.choice(3, keys, replace=False).tolist()]
        cases.append({"pattern": pattern, "links": np.array(edges)})
    _compare(answer, cases, oracle, breaks)


# 02, contextual counting ---------------------------------------------------------------------------------------------


def tallies(answer: Any) -> None:
    """Softmax attention from the score, value and count of each token type."""

    def oracle(scores: np.ndarray, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Softmax over every single token."""
        tokens = [token_type for token_type, number in enumerate(counts) for _ in range(number)]
        weights = torch.from_numpy(scores[tokens]).softmax(dim=0).numpy()
        return np.asarray(sum(weight * values[token_type] for weight, token_type in zip(weights, tokens, strict=True)))

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        if set(case["counts"].tolist()) == {1}:
            return "each type occurs once, and the result differs from the softmax"
        return "the softmax over the single tokens gives a different result"

    rng = _rng("tally")
    counts = ([1] * 5, [3, 1, 4, 1, 5], [40, 0, 2, 0, 1], rng.integers(0, 500, size=5))
    cases = [
        {"scores": rng.normal(size=5, scale=2), "values": rng.normal(size=(5, 2)), "counts": np.array(number)}
        for number in counts
    ]
    _compare(answer, cases, oracle, breaks)


def count(answer: Any) -> None:
    """The number of ones, given their attention mass and the weight of the bias token."""

    def oracle(mass: float, k: float) -> float:
        """Search for the number of ones with this mass."""
        return float(min(range(100), key=lambda n: abs(n / (n + k) - mass)))

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        return f"that many ones of weight 1, with a bias of {case['k']:g}, have a different attention mass"

    cases = [{"mass": n / (n + k), "k": k} for n, k in [(1, 1.0), (0, 4.0), (3, 1.0), (7, 11.2), (30, 5.5)]]
    _compare(answer, cases, oracle, breaks)


def elsewhere(answer: Any) -> None:
    """The answer to n ones if the weight of the bias token differs from training."""

    def oracle(n: int, k: float, now: float) -> float:
        """Invert the learned curve at the observed mass, by bisection."""
        observed, low, high = n / (n + now), 0.0, 1e4
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if middle / (middle + k) < observed else (low, middle)
        return low

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        if case["k"] == case["now"]:
            return "the bias is unchanged, so the answer must be n"
        if (result < case["n"]) != (case["now"] > case["k"]):
            return "a heavier bias must make the model count too few, a lighter one too many"
        return "on the learned curve, the observed mass belongs to a different count"

    cases = [(6, 11.0, 11.0), (6, 11.0, 22.0), (10, 14.0, 30.0), (9, 8.0, 6.0), (5, 12.0, 4.0)]
    _compare(answer, [{"n": n, "k": k, "now": now} for n, k, now in cases], oracle, breaks)


# 03, safety fine-tuning ----------------------------------------------------------------------------------------------


def chance(answer: Any) -> None:
    """The expected share of a random change in the left null space."""

    def oracle(rows: int, columns: int) -> float:
        """Mean energy of the output directions outside the column space of a random matrix."""
        weight = _rng("chance").normal(size=(rows, columns))
        inside = weight @ np.linalg.pinv(weight)
        return float(np.clip(1 - np.mean(np.diag(inside)), 0, 1))

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        if case["columns"] >= case["rows"]:
            return "that many columns span the whole output space, so the null space is empty"
        return "that many columns span a different share of the output space"

    sizes = [(256, 64), (10, 1), (64, 64), (100, 90), (48, 192)]
    _compare(answer, [{"rows": rows, "columns": columns} for rows, columns in sizes], oracle, breaks)


def energy_in_null_space(answer: Any) -> None:
    """The energy share of a change in the left null space of a weight."""

    def oracle(change: torch.Tensor, weight: torch.Tensor) -> float:
        """Energy share of the least-squares residual of the change on the weight's columns."""
        residual = change - weight @ torch.linalg.lstsq(weight, change).solution
        return float(residual.square().sum() / change.square().sum())

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        expected = oracle(**case)
        if expected < 1e-9:
            return "this change lies in the column space of the weight, so its share in the null space is 0"
        return "the squared norm outside the column space over the total squared norm is different"

    generator = torch.Generator().manual_seed(0)
    cases = []
    for rows, columns in ((8, 3), (20, 5), (12, 9)):
        weight, change, mix = (
            torch.randn(*shape, generator=generator, dtype=torch.double)
            for shape in ((rows, columns), (rows, columns), (columns, columns))
        )
        cases += [{"change": weight @ mix, "weight": weight}, {"change": change, "weight": weight}]
    _compare(answer, cases, oracle, breaks)


def pull(answer: Any) -> None:
    """Minus the derivative of the DPO loss with respect to the gain of the chosen answer."""

    def oracle(beta: float, chosen: float, rejected: float) -> float:
        gain = torch.tensor(chosen, dtype=torch.double, requires_grad=True)
        (slope,) = torch.autograd.grad(-F.logsigmoid(beta * gain - beta * rejected), gain)
        return -slope.item()

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        if case["chosen"] == case["rejected"]:
            return "the pull at equal gains is different"
        return "the pull decreases with the lead of the chosen answer, but to a different value"

    cases = [(0.1, 0.0, 0.0), (2.0, 0.0, 0.0), (0.1, 3.0, 3.0), (0.1, 5.0, -20.0), (1.0, -2.0, 1.0), (0.5, 1.0, -4.0)]
    _compare(answer, [{"beta": b, "chosen": c, "rejected": r} for b, c, r in cases], oracle, breaks)


# 04, steering vectors ------------------------------------------------------------------------------------------------


def advantage(answer: Any) -> None:
    """Advantages of a group of rewards with the leave-one-out baseline."""

    def oracle(rewards: np.ndarray) -> list[float]:
        return [reward - np.delete(rewards, index).mean() for index, reward in enumerate(rewards)]

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        rewards = case["rewards"]
        if len(set(rewards.tolist())) == 1:
            return "all rewards are equal, so every advantage is 0"
        raised = np.array(rewards)
        raised[0] += 1
        rise = _numbers(_call(answer, rewards=raised), rewards.shape)[0] - result[0]
        if abs(rise - 1) > 1e-6:
            return f"adding 1 to the first reward should add 1 to its advantage, but adds {rise:.3f} to yours"
        return "the mean reward of the other samples is different"

    fixed = ([1.0, 1, 1, 1], [1.0, 0, 0, 0], [1.0, 1, 0, 1, 0, 0, 1, 1])
    groups = [*map(np.array, fixed), _rng("advantage").random(5)]
    _compare(answer, [{"rewards": rewards} for rewards in groups], oracle, breaks)


def opener(answer: Any) -> None:
    """The share of one of two openers after a shift of its log-odds in nats, at a temperature."""

    def oracle(share: float, nats: float, temperature: float) -> float:
        logits = torch.tensor([share, 1 - share], dtype=torch.double).log() + torch.tensor([nats, 0.0])
        return (logits / temperature).softmax(dim=0)[0].item()

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        if case["nats"] == 0 and case["temperature"] == 1:
            return "neither vector nor temperature acts, so the share must not change"
        if not 0 <= result <= 1:
            return "a share must be between 0 and 1"
        cause = "the temperature" if case["nats"] == 0 else "the vector"
        return f"{cause} changes the log-odds in a different way"

    cases = [(0.14, 0.0, 1.0), (0.14, 3.0, 1.0), (0.14, 0.0, 0.5), (0.5, 1.0, 0.1), (0.3, -2.0, 0.7)]
    _compare(answer, [{"share": s, "nats": n, "temperature": t} for s, n, t in cases], oracle, breaks)


def reach(answer: Any) -> None:
    """The largest shift of the log-odds of two tokens by a vector of a given norm, through the final norm."""

    def oracle(row: np.ndarray, other: np.ndarray, length: float, norm: float) -> float:
        """Simulate: a stream orthogonal to both rows, the vector along their difference, the final norm, the logits."""
        away = np.linalg.svd(np.stack([row, other]))[2][-1]
        stream_, push = length * away, norm * (row - other) / np.linalg.norm(row - other)
        after = (stream_ + push) / np.sqrt(np.mean((stream_ + push) ** 2))
        return float(after @ (row - other))

    def breaks(case: Mapping[str, Any], result: np.ndarray) -> str:
        further = float(_numbers(_call(answer, **{**case, "norm": 1e6})))
        if further > 2 * np.sqrt(len(case["row"])) * np.linalg.norm(case["row"] - case["other"]):
            return "the shift grows without bound in the vector's norm, but the final norm bounds the stream's norm"
        return "after adding the vector and normalising, the two logits differ by a different amount"

    rng, cases = _rng("reach"), []
    for width, length, norm in ((4, 8.0, 6.0), (6, 3.0, 4.0), (9, 12.0, 35.0), (64, 40.0, 15.0)):
        row, other = rng.normal(size=(2, width))
        cases.append({"row": row, "other": other, "length": length, "norm": norm})
    _compare(answer, cases, oracle, breaks)


# 05, your own --------------------------------------------------------------------------------------------------------


def sure_detector(answer: Any) -> None:
    """A score that is higher on planted positives than on decoys, on new links with arbitrary query positions."""
    rng = _rng("detector")
    rules: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "the key before": lambda query, key: key - 1,
        "the key after": lambda query, key: key + 1,
        "the first token": lambda query, key: 0 * key,
        "its own token": lambda query, key: query,
        "any token": lambda query, key: rng.integers(0, query + 1),
    }

    def score(keys: Callable | None, noise: float = 0.0, query_shift: int = 0) -> float:
        row, query = np.arange(12), rng.integers(5, 11, size=12)
        links = np.stack([row, query, rng.integers(1, query - 1)], axis=1)
        attended = links[:, 2] if keys is None else keys(query, links[:, 2])
        pattern = one_head_patterns(rng, links + np.array([0, query_shift, 0]), attended, 12, noise)
        return float(_numbers(_call(answer, shown={"pattern": pattern, "links": links})))

    plants = {f"a positive with {noise:.0%} noise": [score(None, noise) for _ in range(8)] for noise in (0.0, 0.2, 0.4)}
    controls = {f"a head that attends to {name}": [score(keys) for _ in range(8)] for name, keys in rules.items()}
    controls["a head with the correct key at the next query"] = [score(None, query_shift=1) for _ in range(8)]
    least, most = min(plants, key=lambda name: min(plants[name])), max(controls, key=lambda name: max(controls[name]))
    low, high = min(plants[least]), max(controls[most])
    if not low > high:
        raise WrongError(f"Held-out cases: {least} scores {low:.2f}, {most} {high:.2f}. No threshold separates them.")


def in_front(answer: Any) -> None:
    """A task class that satisfies the laws, and whose target is the letter in front of the star."""
    if not isinstance(answer, type):
        raise UnfitError(f"pass the class itself; this is {_type(answer)}.")
    task = _try(lambda: answer(length=6, letters=5), "making InFront(length=6, letters=5)")
    batch = _try(lambda: task.sample(_rng("own"), 40), "sampling rows")
    if not isinstance(batch, Batch):
        raise UnfitError(f"`sample` should return a Batch, but this is {_type(batch)}.")
    _try(lambda: task.solve(batch.tokens[0].tolist()), "`solve`")
    _try(lambda: [_asks_for_the_letter_in_front(task, batch, number) for number in range(len(batch))], "reading rows")
    _keep_the_laws(task)


def _asks_for_the_letter_in_front(task: Task, batch: Batch, number: int) -> bool:
    row = [task.vocabulary[token] for token in batch.tokens[number].tolist()]
    case, letter_position = f"A row reads {' '.join(row)!r}", row.index("*") - 1 if "*" in row else -1
    if letter_position < 0:
        raise WrongError(f"{case}: there is no letter in front of a star.")
    if batch.targets[number, -1] != task.vocabulary.index(row[letter_position]):
        raise WrongError(f"{case}, but its target is not the letter in front of the star.")
    if not any([number, len(row) - 1, letter_position] in edges.tolist() for edges in batch.links.values()):
        raise WrongError(f"{case}: no link leads from the question mark to the letter in front of the star.")
    return True
