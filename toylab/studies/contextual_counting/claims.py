"""The claims of the contextual-counting paper, and our own: what is measured of which condition, and the criterion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from toylab.studies.contextual_counting import results as counting
from toylab.studies.contextual_counting.results import CountingResult
from toylab.verdicts.claim import Claim, Conditions, Detail, Need
from toylab.verdicts.criterion import above, at_least, at_most, below
from toylab.verdicts.intervals import in_words
from toylab.verdicts.judgement import mean

SOME_SOLVED = Need(condition="none", test=lambda r: bool(r.solved), otherwise="no model solved a region here")
ROTARY = Need(condition="rotary", test=lambda r: r.is_solved, otherwise="no rotary model solved the task here")


def claims(encodings: Sequence[str], causal: Sequence[str], longest: int, parts: Collection[str]) -> list[Claim]:
    """All claims.

    Args:
        encodings: those compared.
        causal: the conditions whose encoder is causal.
        longest: tokens of the strings on which models are judged.
        parts: what is trained besides the main conditions.
    """
    pairs = tuple(name for one in encodings for name in (one, f"{one}-bidirectional"))
    strings, mlp = ("none", "no-auxiliary", "fixed"), ("encoder-mlp", "plain-encoder-mlp")
    ingredients = ("one-length", "one-number", "no-logit-scale", "default-head", "large-embeddings", "large-queries")
    ingredients += ("no-auxiliary",)
    add = "not part of this run; add it with --parts encodings circuits"
    counts = "Models count in context: a causal encoder with"
    untaught = "the circuit also forms when nothing about regions is taught."
    best = partial(_solves, place="section 4, best models", statistic="share", figure="Which encoding")
    forms = partial(_solves, kind="own", place="our recipe", statistic="share", figure="Plateaus of all seeds")
    golden = partial(Claim, conditions=("golden",), criterion=at_least(1.0), origin="the paper: an exact construction")
    of_encodings = partial(
        Claim,
        place="section 4, figure 2",
        conditions=pairs,
        details={"mean accuracy [95 % interval]": _table(pairs, "mean_accuracy")},
        figure="Which encoding",
    )
    unordered = partial(Claim, place="proposition 2.3", conditions=("none-bidirectional",))
    plain_names = [f"plain-{name}" for name in encodings]
    no_plain = "" if "plain" in parts else f"{add} plain, or --preset paper"
    plain = partial(Claim, undecidable=no_plain, figure="Plateaus of all seeds")
    of_none = partial(Claim, conditions=("none",), needs=(SOME_SOLVED,))
    in_decoder = partial(of_none, place="section 4.2, figure 8", figure="Attention as a counter")
    cure = partial(of_none, place="section 5, left open", figure="What they compare with")
    pooled = partial(Claim, conditions=(), optional=tuple(causal))
    law = partial(
        pooled,
        place="section 4.3; the law n K / K' is ours",
        measure="share of counting regions whose slope, once 16 zeros or an empty region were appended, is within "
        f"{counting.NEAR:.0%} of the prediction,",
        criterion=at_least(0.9),
        note="a last region may take an appended one for its own, which no law of weights predicts",
        figure="Foretold and measured",
    )
    appended = partial(
        pooled,
        place="section 4.3, figure 3",
        measure="accuracy of these regions after 16 zeros were appended",
        undecidable="" if longest <= 64 else f"16 zeros are few beside strings of {longest}",
    )
    return [
        best("solved", "none", sentence=f"{counts} no positions solves the task."),
        best("solved-rotary", "rotary", sentence=f"{counts} rotary positions solves the task."),
        golden(
            id="golden",
            place="section 2, propositions 2.1 and 2.2",
            sentence="The circuit exists: weights written by hand count without an error.",
            measure="share of counts that are correct",
            quantity=lambda golden: 1 - golden.errors / golden.asked,
            details={"counts asked": Detail("golden", "asked"), "errors": Detail("golden", "errors")},
        ),
        golden(
            id="golden-named",
            kind="set-up",
            place="our check of the probes",
            sentence="The probes name the circuit and the bias token of weights that were written by hand.",
            measure="share of regions whose circuit and bias token are named as they were written",
            quantity=lambda golden: golden.named_correctly,
        ),
        of_encodings(
            id="causal-helps",
            sentence="For every encoding, a causal encoder does much better than a bidirectional one.",
            measure="lead in mean accuracy of causal over bidirectional, smallest over encodings,",
            quantity=lambda *models: min(map(CountingResult.lead, models[::2], models[1::2])),
            criterion=at_least(0.2),
        ),
        of_encodings(
            id="causal-over-all",
            sentence="Every causal encoder does better than any bidirectional one.",
            measure="mean accuracy of the worst causal encoding less that of the best bidirectional one",
            quantity=lambda *models: min(causal.lead(both) for causal in models[::2] for both in models[1::2]),
            criterion=above(0.0),
            origin="the smallest effect of interest: any lead",
        ),
        of_encodings(
            id="none-is-best",
            place="section 4, abstract",
            sentence="No positional encoding gives the best accuracy.",
            # Rotary, the strongest rival, is trained on all seeds: those without the other encodings tell as much.
            conditions=("none", "rotary"),
            optional=tuple(name for name in encodings if name not in ("none", "rotary")),
            measure="lead in mean accuracy over the best other causal encoding trained on the seed",
            quantity=lambda none, *others: min(none.lead(other) for other in others if other),
            criterion=above(0.0),
            origin="the smallest effect of interest: any lead",
        ),
        unordered(
            id="bidirectional-chance",
            asks="absence",
            sentence="Without positions a bidirectional model cannot tell regions apart: it guesses.",
            measure="distance of the mean accuracy from the best constant guess",
            quantity=lambda both: abs(both.mean_accuracy - both.floor),
            criterion=at_most(0.02),
            figure="Which encoding",
        ),
        unordered(
            id="permutation-invariant",
            asks="absence",
            sentence="Without positions a bidirectional model gives permuted strings the same logits.",
            measure="largest change of a logit when tokens are shuffled, in float64,",
            quantity=lambda both: both.permutation_gap,
            criterion=below(1e-9),
            statistic="share",
            origin="computed: rounding in float64",
            details={"change": Detail("none-bidirectional", "permutation_gap")},
        ),
        plain(
            id="failure-rate",
            asks="absence",
            place="section 4, figure 2",
            sentence="In the plain set-up, training without positions is a lottery: most seeds do not solve the task.",
            conditions=("plain-none",),
            measure="mean accuracy over regions",
            quantity=lambda none: none.mean_accuracy,
            criterion=below(counting.SOLVED),
            statistic="share",
            origin="the paper: most seeds",
            details={
                "seeds that solve it [Wilson]": _table(plain_names, "is_solved"),
                "regions >= .9": _table(plain_names, counting.regions_solved),
                "seeds within .1 of the floor [Wilson]": _table(plain_names, "is_near_floor"),
            },
        ),
        plain(
            id="rotary-is-easier",
            place="section 4",
            sentence="In the plain set-up, rotary positions train more reliably than none.",
            conditions=("plain-rotary", "plain-none"),
            measure="lead in mean accuracy of rotary over none",
            quantity=lambda rotary, none: rotary.lead(none),
            criterion=above(0.0),
            origin="the smallest effect of interest: any lead",
        ),
        in_decoder(
            id="count-in-decoder",
            sentence="Counting happens in the decoder's attention: without the ones of its region, a label guesses.",
            measure="accuracy without the counted ones above the best constant guess, largest over solved regions,",
            quantity=lambda none: max(region.without_ones for region in none.solved) - none.floor,
            criterion=at_most(counting.SLACK),
            statistic="share",
            details={"accuracy without them": _of_solved("without_ones"), "floor": Detail("none", "floor")},
        ),
        in_decoder(
            id="count-bias-weight",
            sentence="The attention on n counted ones competes with a bias of the weight of K ones.",
            measure="K in counted ones, largest over solved regions,",
            quantity=lambda none: max(region.k for region in none.solved),
            criterion=at_most(longest / 2),
            statistic="share",
            origin="computed: half the longest string; uniform attention has K near its length",
            details={"K of solved regions": _of_solved("k")},
        ),
        in_decoder(
            id="count-curve",
            sentence="The mass of the decoder's attention on n ones is n / (n + K).",
            measure="R^2 of that curve, smallest over solved regions,",
            quantity=lambda none: min(region.r2 for region in none.solved),
            criterion=at_least(0.98),
            statistic="share",
            details={"R^2 of solved regions": _of_solved("r2")},
            undecidable="uniform attention reaches .99 as well, with a far larger K: it is K that tells",
        ),
        of_none(
            id="bias-token",
            place="section 4.2",
            sentence="Each region compares its ones with one kind of token, the bias token.",
            measure="share of solved regions that have a bias token, and are at the floor (+ .05) without it,",
            quantity=lambda none: none.share(lambda region: region.needs_bias(none.floor + counting.SLACK)),
            criterion=at_least(0.9),
            details={
                "bias by solved region": _of_solved("bias"),
                "its share": _of_solved("share"),
                "accuracy without it": _of_solved("without_bias"),
            },
            note="a bias token has .7 or more of the attention that is not on counted ones",
            figure="What they compare with",
        ),
        of_none(
            id="two-values",
            place="section 4.2, equation 3",
            sentence="Two values reproduce the answers: one for a counted one, one for a bias token.",
            measure="share of cases with the same likeliest count as the model, in solved regions,",
            quantity=lambda none: none.agreement,
            criterion=at_least(0.9),
            details={
                "KL in nats, two values": Detail("none", lambda r: [x.two_values.kl for x in r.readout or ()]),
                "KL in nats, one value a class": Detail("none", lambda r: [x.all_classes.kl for x in r.readout or ()]),
            },
        ),
        of_none(
            id="region-probe",
            place="section 4.2, figures 7 and 9",
            sentence="The encoder writes into every one which region it stands in.",
            measure="accuracy of a linear probe on ones at the decoder's input",
            quantity=lambda none: none.probe.decoder_input.accuracy,
            criterion=at_least(0.95),
            details={
                "at the attention's output": Detail("none", "probe.attention_output.accuracy"),
                "always the commonest region": Detail("none", "probe.decoder_input.majority"),
                "shuffled labels": Detail("none", "probe.decoder_input.shuffled"),
                "variance in two components": Detail("none", "probe.attention_output.two_components"),
            },
            undecidable="a linear probe of an encoder with random weights is right in .997 to 1 as well",
        ),
        of_none(
            id="reads-brackets",
            place="section 4.2, figure 6",
            sentence="In the encoder, ones attend to brackets and the begin token, and hardly to bits.",
            measure="attention of a one on brackets and the begin token, at equal numbers of each token,",
            quantity=lambda none: none.bracket_share,
            criterion=at_least(0.9),
            details={"scores of a one for 0, 1, [, ], BoS": Detail("none", "scores_of_one")},
            figure="The counting circuit",
        ),
        law(
            id="ood-law",
            kind="own",
            sentence="What a region compares with foretells its answers elsewhere: n becomes n K / K'.",
            quantity=partial(counting.share_predicted, law=attrgetter("predicted")),
            details=_of_law(causal, attrgetter("predicted")),
        ),
        law(
            id="ood-law-by-place",
            kind="own",
            sentence="The same, if K' is taken from tokens of the same class between the same brackets.",
            quantity=partial(counting.share_predicted, law=attrgetter("by_place")),
            details=_of_law(causal, attrgetter("by_place")),
        ),
        appended(
            id="constant-bias-keeps",
            sentence="Regions that compare with a token whose number never changes keep counting in longer strings.",
            quantity=partial(counting.accuracy_kept, biases=counting.CONSTANT),
            criterion=at_least(0.9),
            details={
                "begin token alone": _table(causal, lambda models: counting.accuracy_kept(*models, biases=("begin",)))
            },
        ),
        appended(
            id="zeros-bias-falls",
            asks="absence",
            sentence="Regions that compare with zeros miscount in longer strings.",
            quantity=partial(counting.accuracy_kept, biases=("zeros",)),
            criterion=at_most(0.5),
        ),
        Claim(
            id="encoder-mlp",
            kind="own",
            asks="absence",
            place="our question",
            sentence="With an MLP in the encoder, the same accuracy comes from another circuit.",
            conditions=(),
            optional=mlp,
            measure="share of solved regions that count in the decoder, in our recipe and, if run, the plain set-up,",
            quantity=counting.counting_share,
            criterion=at_most(0.5),
            details={
                "circuits of solved regions": _table(mlp, counting.circuit_names),
                "accuracy, plain": Detail("plain-encoder-mlp", "mean_accuracy"),
                **{f"without {keys}, {name}": _without(name, keys) for name in mlp for keys in counting.BLOCKED},
            },
            figure="What each region needs",
        ),
        Claim(
            id="rotary-in-disguise",
            place="appendix, figure 25",
            sentence="Rotary models do without rotation: they live in planes that hardly turn over a string.",
            conditions=("rotary",),
            measure="share of the accuracy kept when planes of more than one radian a string stop turning",
            quantity=lambda model: mean(model.rotary.stopped.fast) / model.mean_accuracy,
            criterion=at_least(0.9),
            needs=(ROTARY,),
            details={
                "accuracy when no plane turns": Detail("rotary", lambda model: mean(model.rotary.stopped.all)),
                "accuracy when only fast planes turn": Detail("rotary", lambda model: mean(model.rotary.stopped.slow)),
                "share of the score from slow planes": Detail("rotary", lambda model: model.rotary.slow_share(longest)),
            },
            figure="Rotary in disguise",
        ),
        cure(
            id="cure",
            asks="absence",
            sentence="Strings of many lengths and numbers of regions in training cure biases that do not generalise.",
            measure="share of solved regions whose largest bias class varies from string to string",
            quantity=lambda none: none.share(lambda region: region.largest in counting.VARYING),
            criterion=at_most(0.05),
            details={
                "largest bias class": _table(strings, counting.bias_names),
                "mean accuracy elsewhere": _table(strings, counting.accuracy_elsewhere),
            },
        ),
        cure(
            id="cure-begin",
            sentence="They make the begin token the bias, as the one constant token.",
            measure="share of solved regions whose largest bias class is the begin token",
            quantity=lambda none: none.share(lambda region: region.largest == "begin"),
            criterion=at_least(0.5),
            note="brackets of the own and of earlier regions are as constant as the begin token, and nearer at hand",
        ),
        forms("emerges", "no-auxiliary", sentence=f"With no positions, {untaught}"),
        forms("emerges-rotary", "no-auxiliary-rotary", sentence=f"With rotary positions, {untaught}"),
        forms(
            "emerges-slow-rotary",
            "no-auxiliary-slow-rotary",
            sentence=f"With rotary positions that turn a hundred times slower, {untaught}",
        ),
        Claim(
            id="ingredients",
            kind="own",
            place="our recipe",
            sentence="Every ingredient of the recipe is needed.",
            conditions=("none", *ingredients),
            measure="loss of mean accuracy when one ingredient is left out, smallest over ingredients,",
            quantity=lambda whole, *left: min(whole.lead(model) for model in left),
            criterion=above(0.02),
            details={
                "mean accuracy, whole and without": _table(("none", *ingredients), "mean_accuracy"),
                "seeds solved without": _table(ingredients, "is_solved"),
            },
            undecidable="" if {"circuits", "ingredients"} <= {*parts} else f"{add} ingredients",
        ),
    ]


def _solves(id: str, name: str, **texts: Any) -> Claim:
    """That the models of a condition learn the task."""
    return Claim(
        id=id,
        conditions=(name,),
        measure="mean accuracy over regions",
        quantity=lambda model: model.mean_accuracy,
        criterion=at_least(counting.SOLVED),
        details={
            "floor (best constant guess)": Detail(name, "floor"),
            "steps to .9": Detail(name, "solved_at", never=True),
            "accuracy by region": Detail(name, "accuracy"),
            "circuits": Detail(name, lambda model: [c.circuit for c in model.circuits]),
            "bias by region": Detail(name, lambda model: [c.bias for c in model.circuits]),
            **{f"accuracy without {keys}": _without(name, keys) for keys in (counting.OWN_BRACKETS, counting.COUNTED)},
        },
        **texts,
    )


def _of_law(causal: Sequence[str], law: counting.Law) -> dict[str, Callable[[Conditions], dict[str, Any]]]:
    """How far the slopes that a law predicts are off, by condition."""
    error, zeros, region = partial(counting.prediction_error, law=law), counting.SIXTEEN_ZEROS, counting.ADDED_REGION
    return {
        "mean relative error, 16 zeros": _table(causal, partial(error, change=zeros)),
        "mean relative error, an empty region": _table(causal, partial(error, change=region)),
        "within 15 %, of those predicted to change by 5 % or more": _table(causal, partial(counting.near, law=law)),
    }


def _table(names: Sequence[str], number: str | Callable[..., Any]) -> Callable[[Conditions], dict[str, Any]]:
    """By condition, a function of all its models, or an attribute of them in words."""
    told = (lambda models: in_words([getattr(m, number) for m in models])) if isinstance(number, str) else number
    return partial(Conditions.by_condition, names=names, number=told)


def _without(name: str, keys: str) -> Detail:
    """Accuracy by region where label queries cannot see these keys."""
    return Detail(name, partial(CountingResult.without, keys=keys))


def _of_solved(number: str) -> Detail:
    """A number of each solved region of the models without positions."""
    return Detail("none", lambda none: [getattr(region, number) for region in none.solved])
