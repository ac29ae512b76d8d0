"""Results of a job with regions that a test lays out; what it does not speak of is made up."""

from dataclasses import replace

from tests.studies.made_up import made_up
from toylab.studies.contextual_counting.results import CLASSES, CountingResult, CountShift, RegionCircuit


def region(accuracy=0.97, circuit="counter", bias="own [", share=0.9, without=0.23, **blocked) -> RegionCircuit:
    """A label of a model."""
    shares = dict.fromkeys(CLASSES[1:], (1 - share) / 7) | ({bias: share} if bias in CLASSES else {})
    lost = {"counted ones": without, "own brackets": 0.1, "outside ones": 0.9, "all ones": without}
    lost |= ({} if bias == "mixed" else {"the bias": 0.1}) | blocked
    given = {"accuracy": accuracy, "circuit": circuit, "bias": bias, "shares": shares, "blocked": lost}
    return made_up(RegionCircuit, f"{accuracy} {circuit} {bias}", given)


def finding(*regions: RegionCircuit, **more) -> CountingResult:
    """What a job measures, with these regions."""
    scores = [[0.0, 0.1, 5.0, 5.1, 4.0]] * 5
    given = {"circuits": list(regions), "floor": 0.23, "scores": scores}
    found = made_up(CountingResult, "finding", given)
    return replace(found, accuracy=[one.accuracy for one in regions] or [0.97] * 4, **more)


def flat(accuracy: float, **more) -> CountingResult:
    """All regions equally good."""
    return finding(*(region(accuracy, "unsolved") for _ in range(4)), **more)


def shift(accuracy=0.9, before=1.0, after=0.5, predicted=0.5, by_place=0.8) -> CountShift:
    """What a change does to one label."""
    return CountShift(accuracy=accuracy, before=before, after=after, predicted=predicted, by_place=by_place)


def model(regions, zeros=(), added=()) -> CountingResult:
    """With these regions, and what 16 zeros and an empty region do to each."""
    return replace(finding(*regions), shifts={"16 zeros": list(zeros), "a region": list(added)})


SOLVED, UNSOLVED = region(0.95), region(0.89, bias="begin")
COPY = region(0.97, circuit="copy", bias="zeros")
