"""Laws of the claims on steering vectors: what each measures on made-up results; results survive JSON; figures."""

from dataclasses import replace
from random import Random

import pytest

from tests.studies.made_up import SEEDS, Given, Row, all_differ, by_key, check, made_up, number
from tests.studies.steering_vectors.exact_rows import EXACT, EXACT_PATHS, EXACT_ROWS
from toylab.studies.steering_vectors.data import AnswerShares
from toylab.studies.steering_vectors.results import LayerCombination, Persistence
from toylab.studies.steering_vectors.study import SteeringVectorsStudy
from toylab.studies.steering_vectors.transfer import TransferredVector
from toylab.tasks import Reasoning
from toylab.verdicts.claim import Conditions

TEMPERATURES, LAYERS, PAIRS = (0, 0.7, 1), range(4), [(i, j) for i in range(4) for j in range(i + 1, 4)]
STUDY = SteeringVectorsStudy(cosines=(0.8, 0.9, 0.95))
VECTORS = tuple(f"vector-{layer}" for layer in LAYERS)
ROUTES = ("skip query", "skip attention", "skip MLP", "skip block", "skip unembedding")
PLACES = ("first", "all but first", "first two", "prompt", "generated")


def combined(path: str) -> list[LayerCombination]:
    scales = dict.fromkeys(PAIRS, (1, 0.5)) | {(0, 1, 2, 3): (1, 0.5, 0.25)}
    return [
        LayerCombination(layers=[*layers], accuracy={x: number(f"{path}.{layers}.{x}") for x in own})
        for layers, own in scales.items()
    ]


def persistence(path: str) -> dict[int, dict[int, Persistence]]:
    return {
        layer: {later: made_up(Persistence, f"{path}.{layer}.{later}") for later in range(layer + 1, 4)}
        for layer in range(3)
    }


def cosines_of_tokens(path: str) -> list[float]:
    return [number(f"{path}.{k}", -0.5, 0.5) for k in range(21)]


def given(name: str) -> Given:
    answers, shares = by_key(AnswerShares, *TEMPERATURES), by_key(float, *TEMPERATURES)
    every = {
        **dict.fromkeys(("answers", "prefix", "direct", "prefix_direct", "constant", "vector"), answers),
        **dict.fromkeys(("forced", "free", *(f"{one}.accuracy" for one in (
            "random_reward", "minus", "difference_of_means", "logit_bias", "another_run"))), shares),
        "places": by_key(float, *PLACES), "routes": by_key(float, *ROUTES), "scaled": by_key(float, 0.5, 0.75, 1.25),
        "alone": by_key(float, *LAYERS), "combined": combined, "cosines": by_key(float, "0, 1", "2, 3"),
        "persistence": persistence, "random_persistence": persistence, "layers": by_key(TransferredVector, 2, 3),
        "random_vectors": lambda path: [number(f"{path}.{k}") for k in range(10)],
        **dict.fromkeys(("lens.all", "random_lens.all", "difference_lens.all"), cosines_of_tokens),
        "rank": lambda path: Random(f"from {path}").choice([1, 1, 2, 20, 21, 21]),
        "bound": lambda path: number(path, 1, 7),
    }  # fmt: skip
    every |= EXACT | (EXACT_PATHS if name == "paths" else {})
    if name.startswith("vector-learned"):
        del every["vector"]
    return every


def result(name: str, kind: type, seed: int):
    """Of a condition and a seed; one base of the sweep has openers of nearly one row. The scale at SEP is larger than
    the answer's in five seeds of six, but smaller than that of BOS in one of these; at random, in one seed."""
    path = f"{name}.{seed}"
    more = {"pre_flight.cosine": lambda path: number(path, 0.97, 0.99)} if name == "base-learned" else {}
    if name == "adaptive":
        for held, seeds in (("scales", (0, 2, 3, 4, 5)), ("random_scales", (1,))):
            more[f"{held}.SEP"] = lambda path, at=seed in seeds: number(path, 1, 2) if at else number(path, 0, 0.05)
        more |= {"scales.BOS": lambda path: number(path, 2, 3)} if seed == 4 else {}
    found = made_up(kind, path, more | given(name))
    if name == "vector-learned":  # it steers
        greedy = replace(found.answers[0], accuracy=number(f"{path}.greedy", 0.9, 1))
        found = replace(found, answers=found.answers | {0: greedy})
    return found


JOBS = {job.condition or job.name: job.result_type for job in STUDY.jobs()}
WORLD = Conditions({name: {seed: result(name, kind, seed) for seed in SEEDS} for name, kind in JOBS.items()})


def test_no_two_numbers_of_the_made_up_world_are_equal():
    assert all_differ(WORLD)


# What is measured ----------------------------------------------------------------------------------------------------


def at(one, temperature=1):
    return one.answers[temperature].accuracy


def way(start, value, end):
    return (value - start) / (end - start)


def gained(s, name):
    """The share of full training's gain."""
    return way(at(s["base"]), at(s[name]), at(s["full"]))


def smallest(values):
    low = float("inf")
    for one in values:
        low = one if one < low else low
    return low


def largest(values):
    return -smallest(-one for one in values)


def average(values):
    total, count = 0.0, 0
    for one in values:
        total, count = total + one, count + 1
    return total / count


def by_place(place):
    return lambda s: way(s["vector-3"].few.base, s["vector-3"].places[place], s["vector-3"].few.steered)


def by_route(route):
    return lambda s: way(s["paths"].base, s["paths"].routes[route], s["paths"].steered)


def first_share(kl):
    return kl[0] / (kl[0] + kl[1] + kl[2] + kl[3])


def dialect_lead(vector):
    return vector.lens.second_dialect - vector.lens.first_dialect


def above_average(token, which):
    def lead(s):
        lens = getattr(s["vector-2"], which)
        return getattr(lens, token).cosine - average(lens.all)

    return lead


def second_is_lower(s, which):
    lenses = [getattr(s[name], which) for name in VECTORS]
    return average(1 if lens.second_dialect < lens.first_dialect else 0 for lens in lenses)


def cosines(kept, which):
    return [getattr(kept[layer][later], which) for layer in range(3) for later in range(layer + 1, 4)]


def sweep(s):
    """Cosine of the openers' rows, bound, and share of the gain, by cosine."""
    found = []
    for base, vector in (("base", "vector-3"), ("base-learned", "vector-learned")):
        found.append((s[base].pre_flight, way(at(s[base]), at(s[vector]), at(s["full"]))))
    for cosine in ("0.8", "0.9", "0.95"):
        one = s[f"cosine-{cosine}"]
        found.append((one.pre_flight, way(at(one), one.vector[1].accuracy, at(s["full"]))))
    return sorted((flight.cosine, flight.bound, share) for flight, share in found)


def carried(name, which):
    def share(s):
        held = s[name].layers[3]
        return way(s[name].base, getattr(held, which), held.own)

    return share


def pairs_gain(s, scale):
    gains = []
    for one, (i, j) in zip(s["combine"].combined, PAIRS, strict=False):
        gains.append(one.accuracy[scale] - largest([s["combine"].alone[i], s["combine"].alone[j]]))
    return average(gains)


def sep_lead(scales):
    return scales.SEP - largest([scales.BOS, scales.digits, scales.opener, scales.chain])


def lost(name):
    return lambda s: s[name].steered - s[name].routes["skip MLP"]


def over_base(s, value):
    return value - s["baselines"].base


def vector_gain(s):
    return over_base(s, s["baselines"].steered)


def rank_of_think(name, which="lens"):
    return lambda s: getattr(s[name], which).THINK.rank


def direct_from_last(name, which="lens"):
    return lambda s: 22 - getattr(s[name], which).DIRECT.rank


def is_first(rank):
    return rank <= 1


ROWS = {
    "base-chain": Row(lambda s: s["base"].chain, ">= 0.97"),
    "base": Row(lambda s: at(s["base"]), "from 0.17 to 0.26"),
    "full-rl": Row(lambda s: at(s["full"]), ">= 0.97", lambda s: at(s["base"])),
    "greedy": Row(
        lambda s: smallest(at(s[name], 0) for name in VECTORS) - at(s["full"], 0),
        ">= -0.05",
        lambda s: at(s["base"], 0) - at(s["full"], 0),
    ),
    "fraction-match": Row(
        lambda s: way(at(s["base"]), at(s["joint-converged"]), at(s["full-converged"])),
        ">= 0.95",
        lambda s: way(at(s["base"]), s["base"].prefix[1].accuracy, at(s["full-converged"])),
    ),
    "fraction-large": Row(
        lambda s: gained(s, "joint"),
        ">= 0.5",
        lambda s: way(at(s["base"]), s["joint"].random_accuracy, at(s["full"])),
    ),
    "single-layer": Row(
        lambda s: average(1 if at(s[name]) > at(s["base"]) + 0.05 else 0 for name in VECTORS),
        ">= 0.9",
        lambda s: average(1 if s[name].random_accuracy > at(s["base"]) + 0.05 else 0 for name in VECTORS),
    ),
    "depth-order": Row(lambda s: gained(s, "vector-3") - gained(s, "vector-0"), "> 0"),
    "depth-joint": Row(lambda s: gained(s, "joint") - gained(s, "vector-3"), "> 0"),
    "prefix": Row(
        lambda s: way(at(s["base"]), s["base"].prefix[1].accuracy, at(s["vector-3"])),
        ">= 0.6",
        lambda s: way(at(s["base"]), s["base"].direct[1].accuracy, at(s["vector-3"])),
    ),
    "first-token": Row(by_place("first"), ">= 0.6", by_place("all but first")),
    "first-token-rest": Row(by_place("all but first"), "<= 0.12", by_place("first")),
    "first-token-kl": Row(
        lambda s: first_share(s["vector-3"].kl), ">= 0.6", lambda s: first_share(s["vector-3"].random_kl)
    ),
    "norm-temperature": Row(
        lambda s: way(at(s["vector-3"]), s["vector-3"].clean_scale, at(s["full"])),
        "> 0",
        lambda s: way(s["vector-3"].few.steered, s["vector-3"].scaled[0.75], at(s["full"])),
    ),
    "logit-lens": Row(rank_of_think("vector-3"), "<= 1", rank_of_think("vector-3", "random_lens"), is_first),
    "logit-lens-rival": Row(
        direct_from_last("vector-3"), "<= 1", direct_from_last("vector-3", "random_lens"), is_first
    ),
    "lens-trap": Row(rank_of_think("vector-learned"), "<= 1", rank_of_think("vector-learned", "random_lens"), is_first),
    "lens-trap-rival": Row(
        direct_from_last("vector-learned"), "<= 1", direct_from_last("vector-learned", "random_lens"), is_first
    ),
    "suppression": Row(lambda s: second_is_lower(s, "lens"), ">= 0.9", lambda s: second_is_lower(s, "random_lens")),
    "suppression-middle": Row(
        lambda s: (
            average(dialect_lead(s[name]) for name in ("vector-1", "vector-2"))
            - average(dialect_lead(s[name]) for name in ("vector-0", "vector-3"))
        ),
        "< 0",
    ),
    "persistence": Row(
        lambda s: smallest(cosines(s["combine"].persistence, "to_mean")),
        ">= 0.7",
        lambda s: smallest(cosines(s["combine"].random_persistence, "to_mean")),
    ),
    "persistence-other": Row(
        lambda s: average(cosines(s["combine"].persistence, "to_vector")),
        "<= 0.5",
        lambda s: average(cosines(s["combine"].persistence, "to_mean")),
    ),
    "skip-attention": Row(by_route("skip attention"), ">= 0.9", by_route("skip unembedding")),
    "penultimate-mlp": Row(
        lambda s: 1 - by_route("skip MLP")(s), ">= 0.15", lambda s: 1 - by_route("skip attention")(s)
    ),
    "direct-route": Row(by_route("skip unembedding"), "<= 0.1", by_route("skip attention")),
    "forced-route": Row(
        lambda s: s["paths"].forced[0] - s["paths"].free[0],
        ">= -0.05",
        lambda s: at(s["base"], 0) - s["paths"].free[0],
    ),
    "attention-unchanged": Row(
        lambda s: s["paths"].attention.steered, "<= 0.1", lambda s: s["paths"].attention.other_prompts
    ),
    "process-words": Row(above_average("THINK", "lens"), ">= 0.3", above_average("THINK", "random_lens")),
    "structure-symbols": Row(above_average("ANS", "lens"), ">= 0.3", above_average("ANS", "random_lens")),
    "separability": Row(lambda s: sweep(s)[-1][2] - sweep(s)[0][2], "<= -0.3"),
    "pre-flight": Row(
        lambda s: average(1 if (share >= 0.5) == (bound >= 3) else 0 for _, bound, share in sweep(s)),
        ">= 0.9",
        lambda s: largest(
            average(1 if (share >= 0.5) == side else 0 for *_, share in sweep(s)) for side in (True, False)
        ),
    ),
    "transfer-family": Row(
        lambda s: way(s["family"].base, s["family"].of_the_parent, s["family"].own),
        ">= 0.7",
        lambda s: way(s["family"].base, s["family"].of_random, s["family"].own),
    ),
    "transfer-seeds": Row(carried("transfer-from", "raw"), ">= 0.75", carried("transfer-from", "random")),
    "transfer-apart": Row(carried("transfer-apart", "raw"), "<= 0.35", carried("transfer-apart", "mapped")),
    "transfer-mapped": Row(carried("transfer-apart", "mapped"), ">= 0.75", carried("transfer-apart", "raw")),
    "combine": Row(lambda s: pairs_gain(s, 1), "> 0"),
    "combine-halved": Row(lambda s: pairs_gain(s, 0.5), ">= -0.08", lambda s: pairs_gain(s, 1)),
    "adaptive": Row(lambda s: at(s["adaptive"]) - s["adaptive"].constant[1].accuracy, ">= 0.03"),
    "adaptive-place": Row(
        lambda s: sep_lead(s["adaptive"].scales),
        "> 0",
        lambda s: sep_lead(s["adaptive"].random_scales),
        lambda x: x > 0,
    ),
    "adaptive-content": Row(
        lambda s: s["adaptive"].scales.digits - s["adaptive"].scales.chain,
        "> 0",
        lambda s: s["adaptive"].random_scales.digits - s["adaptive"].random_scales.chain,
        lambda x: x > 0,
    ),
    "prompt-bit-constant": Row(
        lambda s: largest([at(s["flag-before"]), at(s["flag-last"])]), "<= 0.65", lambda s: at(s["flag-full"])
    ),
    "prompt-bit-gate": Row(lambda s: at(s["flag-gate"]), ">= 0.75", lambda s: at(s["flag-last"])),
    "prompt-bit-full": Row(lambda s: at(s["flag-full"]), ">= 0.95", lambda s: at(s["base-flag"])),
    "prompt-bit-mlp": Row(lost("flag-gate"), ">= 0.05", lost("flag-before")),
    "features": Row(lambda s: s["features"].difference.difference - s["features"].difference.chance, "> 0"),
    "features-format": Row(
        lambda s: (
            s["features"].difference.difference
            - largest([s["features"].difference.trivial_difference, s["features"].difference.format_difference])
        ),
        "> 0",
    ),
    "difference-sae": Row(lambda s: s["features"].difference.auc - s["features"].plain.auc, "> 0"),
    "random-vector": Row(lambda s: over_base(s, average(s["baselines"].random_vectors)), "<= 0.05", vector_gain),
    "random-reward": Row(
        lambda s: over_base(s, s["baselines"].random_reward.accuracy[1]), "from -0.05 to 0.05", vector_gain
    ),
    "same-vector": Row(
        lambda s: s["baselines"].another_run.cosine, ">= 0.95", lambda s: s["baselines"].random_reward.cosine
    ),
    "difference-of-means": Row(
        lambda s: over_base(s, s["baselines"].difference_of_means.accuracy[1]), "<= 0.05", vector_gain
    ),
    "logit-bias": Row(lambda s: s["baselines"].logit_bias.accuracy[1] - s["baselines"].steered, "> 0"),
}


ROWS |= EXACT_ROWS


def test_every_claim_measures_on_the_made_up_world_what_plain_loops_find():
    check(STUDY.claims(), WORLD, ROWS)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (4, {"base": "from 0.28 to 0.37", "prompt-bit-constant": "<= 0.7", "prompt-bit-gate": ">= 0.8"}),
        (5, {"base": "from 0.23 to 0.32", "prompt-bit-constant": "<= 0.68", "prompt-bit-gate": ">= 0.78"}),
    ],
)
def test_what_guessing_gives_follows_from_the_number_of_states(p, expected):
    found = {one.id: one for one in replace(STUDY, task=Reasoning(p=p)).claims()}
    assert {id: str(found[id].criterion) for id in expected} == expected
    assert all("computed" in found[id].origin for id in expected)


def test_the_check_is_judged_at_the_least_shift_that_was_set():
    def share(s):
        return average(1 if (share >= 0.5) == (bound >= 5) else 0 for _, bound, share in sweep(s))

    rows = {"pre-flight": replace(ROWS["pre-flight"], value=share)}
    check([one for one in replace(STUDY, least_shift=5).claims() if one.id in rows], WORLD, rows)


# What is not decided -------------------------------------------------------------------------------------------------
