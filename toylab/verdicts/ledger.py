"""The ledger of seeds: the purpose of each range, so that no verdict rests on seeds used for design choices."""

from __future__ import annotations

from collections.abc import Iterable

DESIGN = "design seeds"
LEDGER = {
    range(10): DESIGN,
    range(10, 30): "rehearsal",
    range(30, 40): "earlier tables",
    range(60, 90): "earlier tables",
    range(100, 110): "kept for outside checks",
    range(200, 220): "earlier tables",
    range(310, 320): "rehearsal",
    range(400, 410): "review",
    range(600, 630): "scoreboard",
    range(630, 640): "counterexamples on all inputs",
    range(640, 650): "grokking",
    range(700, 720): "recipes",
    range(800, 820): "kept for outside checks",
}
"""Disjoint ranges of seeds with their purpose; design choices were made on the design and rehearsal seeds."""


def purposes(seeds: Iterable[int]) -> list[str]:
    """The distinct purposes of these seeds; "seeds of no row" for seeds outside the ledger."""
    rows = [next((row for row in LEDGER if seed in row), None) for seed in seeds]
    return list(dict.fromkeys("seeds of no row" if row is None else LEDGER[row] for row in rows))


def seeds_in_words(seeds: Iterable[int]) -> str:
    """Seeds with their purposes, such as "Seeds 0 to 5: design seeds."; empty for no seeds."""
    ordered = sorted(set(seeds))
    return f"Seeds {_spans(ordered)}: {', '.join(purposes(ordered))}." if ordered else ""


def _spans(seeds: Iterable[int]) -> str:
    """Sorted seeds, with runs of consecutive seeds written as "0 to 5"."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][-1] + 1:
            spans[-1].append(seed)
        else:
            spans.append([seed])
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in spans)
