"""Exercises of the notebooks: `check` says what is wrong with an answer, gives a hint more at every attempt, and keeps
the answer to itself.

    check("tour.carry", reads)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toylab.console import unknown_name
from toylab.lessons import answer_key
from toylab.lessons.answers import UnfitError, WaitingError, WrongError, require_answer


@dataclass(frozen=True)
class Exercise:
    """A question of a notebook.

    Attributes:
        name: notebook and subject, with a point between.
        check: takes an answer, and raises an error of `toylab.lessons.answer_key` if it is not right.
        hints: from the gentlest to the plainest.
        right: why the answer matters, in one sentence.
    """

    name: str
    check: Callable[[Any], None]
    hints: tuple[str, ...]
    right: str


def check(name: str, answer: Any) -> None:
    """Print what is wrong with an answer and the next hint of its exercise, or why it matters if it is right.

    Raises:
        ValueError: for an exercise that there is not, with the nearest.
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
        _wrong[name] += 1
        given = min(_wrong[name], len(exercise.hints))
        print(f"{name}: not yet. {error}")
        print(f"Hint {given} of {len(exercise.hints)}: {exercise.hints[given - 1]}")
    else:
        del _wrong[name]  # whoever begins again gets the hints from the first on
        print(f"{name}: right. {exercise.right}")


_wrong: Counter[str] = Counter()
"""Wrong attempts by exercise, in this process: they decide which hint comes next."""


EXERCISES: dict[str, Exercise] = {
    one.name: one
    for one in (
        Exercise(
            "tour.carry",
            answer_key.carry,
            (
                "Draw a row of length 3 on paper, a box a token, and number the boxes from 0.",
                "A model predicts what stands one box further on: to write s_t it stands one box before s_t.",
                "The task's token takes box 0, so x_t is in box t, EoI in box length + 1, and s_t t boxes after it.",
            ),
            "This pair is the whole definition of an iteration head, and every score below asks for nothing else.",
        ),
        Exercise(
            "tour.loss",
            answer_key.form_loss,
            (
                "Count what is scored in a row: the states, and one EoS.",
                "An even guess among 11 states costs ln 11 = 2.4 nats; what is known for certain costs nothing.",
                "All states but the first are guessed. Divide what they cost by the number of scored tokens.",
            ),
            "A loss means little until you know what the model would have that knows the form and not the content.",
        ),
        Exercise(
            "tour.maximum",
            answer_key.maximum,
            (
                "`step` gets whole arrays: the largest of two arrays, place by place, is one function of numpy.",
                "`trace` gets a list and gives a list as long: the state at t looks at the inputs up to t.",
                "Write `trace` without `step`: the built-in `max` of a slice of the list, for every t.",
            ),
            "Layout, splits, links and 21 laws came with the class: what is new in a task is its map and its oracle.",
        ),
        Exercise(
            "iteration.address",
            answer_key.address,
            (
                "At EoI the first input is due, one position later the second.",
                "x_t stands at position t, so it is t that is asked for.",
                "How far is it from EoI to the position? Count EoI itself as the first step.",
            ),
            "One subtraction serves every length; and after the last state it points at EoI, which can stop the chain.",
        ),
        Exercise(
            "iteration.steered",
            answer_key.steered,
            (
                "The model is given the true states: what it answered before, it does not see.",
                "For t = 1 there is no state yet, and the rule is that the first state is the input that is read.",
                "Pair the states from s_1 on with the inputs from x_3 on, and put x_2 in front.",
            ),
            "A prediction of every wrong answer, one by one, is far stronger evidence than a drop in accuracy.",
        ),
        Exercise(
            "iteration.peaky",
            answer_key.peaky,
            (
                "First find, for each pair of row and query, how much attention falls on all its linked keys.",
                "Then ask of each query whether that is more than one half; do not average the attention itself.",
                "A dictionary by (row, query) that adds up pattern[row, :, query, key] does it.",
            ),
            "A mean of .6 may be a head that always half looks, or looks six times in ten: this tells them apart.",
        ),
        Exercise(
            "counting.tally",
            answer_key.tallies,
            (
                "Two tokens of a type have the same score: together they weigh twice exp(score).",
                "The weight of a type is counts * exp(scores); softmax weights sum to one.",
                "Divide the weights by their sum, and take that mean of the rows of `values`.",
            ),
            "So the layer sees its string through five numbers only, however long the string is.",
        ),
        Exercise(
            "counting.count",
            answer_key.count,
            (
                "The mass is n / (n + K). Which n gives it?",
                "Multiply both sides by n + K, and bring what holds n to one side.",
                "n (1 - mass) = K mass.",
            ),
            "This is what the output has to learn: it is steep where the mass is near one, so large counts are hard.",
        ),
        Exercise(
            "counting.elsewhere",
            answer_key.elsewhere,
            (
                "Two steps: which mass does the model see now, and which number had that mass in training?",
                "It sees n / (n + now), and answers the m for which m / (m + k) is the same.",
                "m / k = n / now.",
            ),
            "One ratio foretells answers in strings that nobody trained on: that is what naming the bias token buys.",
        ),
        Exercise(
            "safety.chance",
            answer_key.chance,
            (
                "A random change favours no direction of the output: what counts is how many directions there are.",
                "Independent columns span as many directions as there are columns, until the space is full.",
                "What is left is rows - columns of them, of rows, and never less than none.",
            ),
            "A share of .75 is what a change of no kind at all shows: without this number it reads as a finding.",
        ),
        Exercise(
            "safety.null_share",
            answer_key.energy_in_null_space,
            (
                "Split the change into a part made of the weight's columns and the rest.",
                "An orthonormal basis Q of the columns (torch.linalg.qr) gives the first part: Q Q^T times the change.",
                "Divide the sum of squares of the rest by the sum of squares of the change: lengths squared, no roots.",
            ),
            "The same projection, with the same baseline, works for every claim that something lies in a subspace.",
        ),
        Exercise(
            "safety.pull",
            answer_key.pull,
            (
                "Differentiate: the slope of -log sigmoid(z) is sigmoid(z) - 1.",
                "Here z = beta chosen - beta rejected, and the inner derivative adds a factor beta.",
                "So it is beta (1 - sigmoid(z)). What is sigmoid(0)?",
            ),
            "At equal gains it is beta / 2, up on one answer, down on the other: unlearning's direction at any beta.",
        ),
        Exercise(
            "steering.advantage",
            answer_key.advantage,
            (
                "The baseline of a sample is what the *others* of its group earned, in the mean.",
                "The mean of the others is (sum of all - own) / (number - 1).",
                "Subtract that from the own reward; divide by nothing else.",
            ),
            "A sample left out of its own baseline keeps the gradient unbiased, and a group of equals teaches nothing.",
        ),
        Exercise(
            "steering.opener",
            answer_key.opener,
            (
                "Go from the share to log-odds, log(share / (1 - share)), where a vector simply adds.",
                "Temperature divides the log-odds, after the vector has been added.",
                "Come back by the sigmoid: 1 / (1 + exp(-log-odds)).",
            ),
            "Near temperature 0 only the sign counts: a push that shows at temperature 1 may change nothing greedily.",
        ),
        Exercise(
            "steering.reach",
            answer_key.reach,
            (
                "Before the push both logits are 0; after it, only the part along the difference of the rows counts.",
                "The vector is across the stream, so by Pythagoras the sum is sqrt(length^2 + norm^2) long.",
                "The norm makes that sqrt(width) long: the part along the difference shrinks by the same factor.",
            ),
            "Three numbers of a frozen model say before any training whether a vector can tip this choice.",
        ),
        Exercise(
            "own.task",
            answer_key.in_front,
            (
                "Draw a batch by `super().sample(rng, rows, split)` and turn its text round: tokens[:, -2::-1].",
                "What stood at position p of the text stands at length - p now; the question mark stays where it was.",
                "Targets stay; of the links keep 'the letter behind', its keys turned; `solve` splits at the star.",
            ),
            "You need not believe it: the laws have looked for a row that breaks it, and found none.",
        ),
        Exercise(
            "own.detector",
            answer_key.sure_detector,
            (
                "Sharp is not enough. `shown['links']` says row, query and key: ask how much attention falls there.",
                "pattern[row, :, query, key] has one row a link and one column a head.",
                "Take the mean over the links, and the largest over the heads.",
            ),
            "It knows the mechanism by what it reads, not by how it looks; and it was tried where the truth is known.",
        ),
    )
}
"""Every exercise, by name."""
