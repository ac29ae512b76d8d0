"""Made-up decisions on all prompts, and what the claims on them should measure."""

from random import Random

from tests.studies.made_up import Given, Row, by_key, made_up
from toylab.proofs.exact import Exact


def changed_openers(name: str, seed: str) -> int:
    """Of a vector, all but those of seed 0 and, of layer k, of seed k."""
    if name == "random-reward":
        return 20
    return 80 if seed in (name[-1], "0") else 81


DECISIONS: Given = {
    "inputs": lambda path: 81,
    "holds": lambda path: Random(f"from {path}").randrange(81),
    "openers.holds": lambda path: changed_openers(*path.split(".")[:2]),
    "random_openers.holds": lambda path: 81 if path.split(".")[1] == "5" else 80,
}
"""A random vector changes all openers in seed 5 alone."""
EXACT: Given = DECISIONS | {"exact.answers": lambda path: made_up(Exact, path, DECISIONS)}
EXACT_PATHS: Given = {"exact": by_key(Exact, "skip unembedding", "skip attention", given=DECISIONS)}


def of_all(name, which="openers"):
    """The share of all prompts on which a property holds."""

    def share(s):
        held = s[name].exact
        exact = held[which] if name == "paths" else getattr(held, which)
        return exact.holds / exact.inputs

    return share


def least_of_all(which):
    return lambda s: sorted(of_all(f"vector-{layer}", which)(s) for layer in range(4))[0]


def is_every(share):
    return share == 1


EXACT_ROWS = {
    "exact-opener": Row(of_all("vector-3"), ">= 1", of_all("vector-3", "random_openers"), is_every),
    "exact-layers": Row(least_of_all("openers"), ">= 1", least_of_all("random_openers"), is_every),
    "exact-joint": Row(of_all("joint"), ">= 1", of_all("joint", "random_openers"), is_every),
    "exact-transfer": Row(of_all("transfer-from"), ">= 1", of_all("transfer-from", "random_openers"), is_every),
    "exact-random-reward": Row(of_all("random-reward"), "<= 0.05", of_all("vector-3")),
    "exact-path": Row(of_all("paths", "skip unembedding"), "<= 0.05", of_all("paths", "skip attention")),
    "exact-answers": Row(of_all("vector-3", "answers"), ">= 0.95", of_all("base", "answers")),
    "exact-full": Row(of_all("full", "answers"), ">= 0.95", of_all("base", "answers")),
}
