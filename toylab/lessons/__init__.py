"""Exercises of the notebooks. `check` reports what is wrong with an answer and gives one more hint per attempt, without
revealing the solution.

    check("tour.carry", carry_link)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toylab.console import unknown_name
from toylab.lessons import answer_key, answer_key_fourier, answer_key_inputs
from toylab.lessons.answers import UnfitError, WaitingError, WrongError, require_answer


@dataclass(frozen=True)
class Exercise:
    """An exercise of a notebook.

    Attributes:
        name: "notebook.subject".
        check: takes an answer, and raises an error of `toylab.lessons.answers` if it is not correct.
        hints: from general to specific.
        right: why the answer matters, in one sentence; printed after a correct answer.
    """

    name: str
    check: Callable[[Any], None]
    hints: tuple[str, ...]
    right: str


def check(name: str, answer: Any) -> None:
    """Print what is wrong with an answer and the next hint, or why the exercise matters if the answer is correct.

    Raises:
        ToylabError: for an unknown exercise; the message suggests the nearest one.
    """
    if name not in EXERCISES:
        raise unknown_name("exercise", name, EXERCISES)
    exercise = EXERCISES[name]
    try:
        exercise.check(require_answer(answer))
    except WaitingError:
        print(f"{name} waits for your answer: write it in place of the three dots above, and run the cell again.")
    except UnfitError as error:
        print(f"{name}: {error}")
    except WrongError as error:
        _wrong_attempts[name] += 1
        hint_count = min(_wrong_attempts[name], len(exercise.hints))
        print(f"{name}: not yet. {error}")
        print(f"Hint {hint_count} of {len(exercise.hints)}: {exercise.hints[hint_count - 1]}")
    else:
        del _wrong_attempts[name]  # hints restart after a correct answer
        print(f"{name}: right. {exercise.right}")


_wrong_attempts: Counter[str] = Counter()
"""Wrong attempts by exercise in this process; they select the next hint."""


EXERCISES: dict[str, Exercise] = {
    item.name: item
    for item in (
        Exercise(
            "tour.carry",
            answer_key.carry,
            (
                "Draw a row of length 3 on paper, one box per token, and number the boxes from 0.",
                "A model predicts the next token: the query that predicts s_t is one position before s_t.",
                "The task token is at position 0, so x_t is at t, EoI at length + 1, and s_t at t positions after EoI.",
            ),
            "This pair defines an iteration head, and every score below measures attention on it.",
        ),
        Exercise(
            "tour.loss",
            answer_key.form_loss,
            (
                "Count the scored tokens of a row: the states, and one EoS.",
                "A uniform guess among 11 states costs ln 11 = 2.4 nats; a token known for certain costs nothing.",
                "All states except the first are guessed. Divide their total cost by the number of scored tokens.",
            ),
            "A loss means little without this baseline: the loss of a model that knows the format but not the map.",
        ),
        Exercise(
            "tour.maximum",
            answer_key.maximum,
            (
                "`step` receives whole arrays: the elementwise maximum of two arrays is one function of numpy.",
                "`trace` maps a list to a list of the same length: the state at t depends on the inputs up to t.",
                "Write `trace` without `step`: the built-in `max` of a slice of the list, for every t.",
            ),
            "Layout, splits, links and 21 laws come with the class: a new task needs only its map and its oracle.",
        ),
        Exercise(
            "iteration.address",
            answer_key.address,
            (
                "At EoI the first input is due, and one position later the second.",
                "x_t is at position t, so the function must return t.",
                "What is the distance from EoI to the position? Count EoI itself as the first step.",
            ),
            "One subtraction works for every length; after the last state it yields EoI, which can stop the chain.",
        ),
        Exercise(
            "iteration.steered",
            answer_key.steered,
            (
                "The model is given the true states (teacher forcing): its own earlier answers are not in the row.",
                "For t = 1 there is no previous state; the first state is the input that the head attends to.",
                "Pair the states from s_1 on with the inputs from x_3 on, and prepend x_2.",
            ),
            "Predicting every single wrong answer is far stronger evidence than a drop in accuracy.",
        ),
        Exercise(
            "iteration.peaky",
            answer_key.peaky,
            (
                "First compute, for each (row, query), the total attention on its linked keys.",
                "Then test for each query whether the total exceeds one half; do not average the attention itself.",
                "Use a dictionary keyed by (row, query) that sums pattern[row, :, query, key].",
            ),
            "A mean of .6 may be partial attention always or full attention in 6 of 10 steps: peakiness shows which.",
        ),
        Exercise(
            "counting.tally",
            answer_key.tallies,
            (
                "Two tokens of a type have the same score: their joint unnormalised weight is 2 exp(score).",
                "The weight of a type is counts * exp(scores); softmax weights sum to one.",
                "Divide the weights by their sum, and take the weighted mean of the rows of `values`.",
            ),
            "So the layer's output depends on the string only through five counts, however long the string is.",
        ),
        Exercise(
            "counting.count",
            answer_key.count,
            (
                "The mass is n / (n + K). Solve for n.",
                "Multiply both sides by n + K, and collect the terms in n on one side.",
                "n (1 - mass) = K mass.",
            ),
            "The output layers must learn this function: it is steep for mass near one, so large counts are hard.",
        ),
        Exercise(
            "counting.elsewhere",
            answer_key.elsewhere,
            (
                "Two steps: what is the attention mass now, and which count had that mass in training?",
                "The mass is n / (n + now), and the answer is the m with m / (m + k) equal to it.",
                "m / k = n / now.",
            ),
            "Once the bias token is identified, one ratio predicts the answers on out-of-distribution strings.",
        ),
        Exercise(
            "safety.chance",
            answer_key.chance,
            (
                "A random change is isotropic in the output space: only the dimension of the null space matters.",
                "Independent columns span as many dimensions as there are columns, up to the number of rows.",
                "The null space has rows - columns of the rows dimensions, but never fewer than 0.",
            ),
            "A random change has a share of .75: without this baseline, that share looks like a finding.",
        ),
        Exercise(
            "safety.null_share",
            answer_key.energy_in_null_space,
            (
                "Decompose the change into a part in the column space of the weight and the remainder.",
                "An orthonormal basis Q of the columns (torch.linalg.qr) gives the first part: Q Q^T times the change.",
                "Divide the sum of squares of the remainder by the sum of squares of the change; take no square root.",
            ),
            "The same projection and baseline apply to every claim that something lies in a subspace.",
        ),
        Exercise(
            "safety.pull",
            answer_key.pull,
            (
                "Differentiate: the derivative of -log sigmoid(z) is sigmoid(z) - 1.",
                "Here z = beta chosen - beta rejected, and the chain rule adds a factor beta.",
                "So the result is beta (1 - sigmoid(z)). What is sigmoid(0)?",
            ),
            "At equal gains it is beta / 2, with opposite sign for the rejected answer: unlearning, at any beta.",
        ),
        Exercise(
            "steering.advantage",
            answer_key.advantage,
            (
                "The baseline of a sample is the mean reward of the *other* samples of its group.",
                "The mean of the others is (sum of all - own) / (number - 1).",
                "Subtract that from the sample's own reward; do not normalise further.",
            ),
            "Leave-one-out baselines keep the gradient unbiased, and a group with equal rewards has no gradient.",
        ),
        Exercise(
            "steering.opener",
            answer_key.opener,
            (
                "Convert the share to log-odds, log(share / (1 - share)), to which the vector is additive.",
                "Temperature divides the log-odds, after the vector has been added.",
                "Convert back with the sigmoid: 1 / (1 + exp(-log-odds)).",
            ),
            "Near temperature 0 only the sign counts: a shift visible at temperature 1 may change no greedy answer.",
        ),
        Exercise(
            "steering.reach",
            answer_key.reach,
            (
                "Without the vector both logits are 0; with it, only the component along the rows' difference counts.",
                "The vector is orthogonal to the stream, so by Pythagoras the sum has norm sqrt(length^2 + norm^2).",
                "The final norm rescales that to sqrt(width): the component along the difference is scaled equally.",
            ),
            "Three numbers of a frozen model predict before any training whether a vector can change this choice.",
        ),
        Exercise(
            "own.task",
            answer_key.in_front,
            (
                "Sample a batch with `super().sample(rng, rows, split)` and reverse its text: tokens[:, -2::-1].",
                "The token at position p of the text is now at length - p; the question mark keeps its position.",
                "Keep the targets, and only the link 'the letter behind', its keys mirrored; `solve` splits at '*'.",
            ),
            "The laws searched for a row that violates the task's definition, and found none.",
        ),
        Exercise(
            "own.detector",
            answer_key.sure_detector,
            (
                "Sharpness is not enough. `shown['links']` gives row, query and key: measure the attention there.",
                "pattern[row, :, query, key] has one row per link and one column per head.",
                "Take the mean over links, and the maximum over heads.",
            ),
            "It identifies the mechanism by the tokens attended to, and was tested on cases with known ground truth.",
        ),
        Exercise(
            "grokking.circle",
            answer_key_fourier.cosine_of_sum,
            (
                "Turn the point (cos_a, sin_a) by the angle b.",
                "Multiply the complex numbers cos_a + i sin_a and cos_b + i sin_b, and take the real part.",
                "It is the product of the cosines less the product of the sines.",
            ),
            "Sums of such products are what one layer can compute from the embeddings of two numbers.",
        ),
        Exercise(
            "grokking.energy",
            answer_key_fourier.frequency_share,
            (
                "Project each column on the cosine and on the sine of frequency k: both have squared norm p / 2.",
                "The energy at k is the sum over columns of (column . cosine)^2 + (column . sine)^2, over p / 2.",
                "Divide by the sum of squares of the values after subtracting the mean of each column.",
            ),
            "Without the mean subtracted, a constant offset of the embeddings would hide every frequency.",
        ),
        Exercise(
            "inputs.missed",
            answer_key_inputs.missed,
            (
                "First take a sample of one row: it misses unless the row is one of the failing inputs.",
                "Draws are independent, so their probabilities multiply.",
                "(1 - failing / inputs) to the power of the number of draws.",
            ),
            "A sample of 256 rows usually misses a failure of one input in five thousand.",
        ),
        Exercise(
            "inputs.bound",
            answer_key_inputs.largest_share,
            (
                "With a share p of failures, a sample has none with probability (1 - p) to the power of its size.",
                "A larger p makes this less probable; the bound is the p at which it is 1 - confidence.",
                "Solve (1 - p)^sample = 1 - confidence for p.",
            ),
            "At 95 % confidence this is about 3 divided by the size of the sample: the rule of three.",
        ),
    )
}
"""Every exercise, by name."""
