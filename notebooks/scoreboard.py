"""Write a scoreboard into the package, CLAIMS.md and README.md: `python notebooks/scoreboard.py FOLDER`, of a folder of
runs. The verdicts in docs/abstracts.md and the tables in docs/results.md follow. A study without a run in the folder
keeps its published verdicts.

`make scoreboard` makes the runs first, on seeds that no choice was made on. Without a folder nothing is judged: the
published board is written into CLAIMS.md, and its summary into README.md, as it stands.
"""

import re
import sys
from dataclasses import asdict
from pathlib import Path

from toylab.files import write_bytes, write_json, write_text
from toylab.runs import scoreboard

HERE = Path(__file__).parent.parent
PICTURES = {
    "iteration-head": ("iteration-head", "the-iteration-head"),
    "emergence": ("iteration-head", "how-it-emerges"),
    "null-space": ("safety-finetuning", "where-the-change-of-the-up-projection-lies"),
    "steering-vectors": ("steering-vectors", "what-each-training-reaches"),
}
"""By its name in notebooks/images: the study whose figure it is, and the figure."""


def with_verdicts(text: str, standings: list[scoreboard.StudyVerdicts]) -> str:
    """The text with the published verdict after each claim, as in `head`: supported."""
    words = {claim.id: claim.verdict for one in standings for claim in one.claims}
    return re.sub(r"`([\w-]+)`: [a-z]+( run)?", lambda found: f"`{found[1]}`: {words[found[1]]}", text)


def put_table(page: Path, name: str, table: str) -> None:
    """Write a table between the comment of this name in a page and the end that follows."""
    between = f"<!-- {name} -->\n{table}\n<!-- end -->"
    text = page.read_text(encoding="utf-8")
    write_text(page, re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _: between, text, flags=re.DOTALL))


def main(folder: Path | None = None) -> None:
    standings = scoreboard.published_scoreboard()
    if folder is not None:
        new = {one.study: one for one in scoreboard.build_scoreboard(folder)}
        standings = [new.get(one.study, one) for one in standings]
        write_json(HERE / "toylab" / "report" / "scoreboard.json", [asdict(one) for one in standings])
        for name, (study, figure) in PICTURES.items():
            if study in new:
                drawn = folder / new[study].folder / f"figures/{figure}.svg"
                write_bytes(HERE / "notebooks/images" / f"{name}.svg", drawn.read_bytes())
    put_table(HERE / "README.md", "scoreboard", scoreboard.summary_markdown(standings))
    for one in standings:
        put_table(HERE / "docs" / "results.md", one.study, scoreboard.results_markdown(one))
    abstracts = HERE / "docs" / "abstracts.md"
    write_text(abstracts, with_verdicts(abstracts.read_text(encoding="utf-8"), standings))
    title = "# Every claim, its criterion, its control, and the verdict"
    write_text(HERE / "notebooks" / "CLAIMS.md", f"{title}\n\n{scoreboard.board_markdown(standings)}\n")
    print(scoreboard.scoreboard_summary(standings))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
