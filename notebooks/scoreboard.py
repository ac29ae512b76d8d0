"""Write the scoreboard of a folder of runs into README.md and the package: `python notebooks/scoreboard.py FOLDER`.

`make scoreboard` makes the runs first, on seeds that no choice was made on.
"""

import re
import sys
from dataclasses import asdict
from pathlib import Path

from toylab import scoreboard
from toylab.files import write_json, write_text

HERE = Path(__file__).parent.parent


def main(folder: Path) -> None:
    standings = scoreboard.board(folder)
    write_json(HERE / "toylab" / "report" / "scoreboard.json", [asdict(one) for one in standings])
    readme = HERE / "README.md"
    between = f"<!-- scoreboard -->\n{scoreboard.markdown(standings)}\n<!-- end -->"
    text = readme.read_text(encoding="utf-8")
    write_text(readme, re.sub(r"<!-- scoreboard -->.*?<!-- end -->", lambda _: between, text, flags=re.DOTALL))
    print(scoreboard.summary(standings))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
