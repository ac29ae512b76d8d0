"""Write the scoreboard of a folder of runs into README.md and the package: `python notebooks/scoreboard.py FOLDER`.

`make scoreboard` makes the runs first, on seeds that no choice was made on. Without a folder it marks in the published
one what the studies have withdrawn since.
"""

import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

from toylab.files import write_bytes, write_json, write_text
from toylab.runs import registry, scoreboard
from toylab.runs.scoreboard import Standing

HERE = Path(__file__).parent.parent
PICTURES = {
    "iteration-head": ("iteration-head", "the-iteration-head"),
    "emergence": ("iteration-head", "how-it-emerges"),
    "null-space": ("safety-finetuning", "where-the-change-of-the-up-projection-lies"),
    "steering-vectors": ("steering-vectors", "what-each-training-reaches"),
}
"""By its name in notebooks/images: the study whose figure it is, and the figure."""


def main(folder: Path | None = None) -> None:
    standings = [marked(one) for one in scoreboard.published()] if folder is None else scoreboard.board(folder)
    write_json(HERE / "toylab" / "report" / "scoreboard.json", [asdict(one) for one in standings])
    readme = HERE / "README.md"
    between = f"<!-- scoreboard -->\n{scoreboard.markdown(standings)}\n<!-- end -->"
    text = readme.read_text(encoding="utf-8")
    write_text(readme, re.sub(r"<!-- scoreboard -->.*?<!-- end -->", lambda _: between, text, flags=re.DOTALL))
    folders = {one.study: folder / one.folder for one in standings} if folder else {}
    for name, (study, figure) in PICTURES.items() if folder else ():
        write_bytes(HERE / "notebooks/images" / f"{name}.svg", (folders[study] / f"figures/{figure}.svg").read_bytes())
    print(scoreboard.summary(standings))


def marked(one: Standing) -> Standing:
    """A standing whose claims are withdrawn as its study withdraws them now; what was measured stays."""
    now = {claim.id: claim for claim in registry.load(one.study).STUDY.default().conclude({})}
    return replace(
        one,
        claims=[
            replace(claim, verdict="withdrawn", note=now[claim.id].note)
            if claim.id in now and now[claim.id].verdict == "withdrawn"
            else claim
            for claim in one.claims
        ],
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
