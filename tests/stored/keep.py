"""Real results of six seeds, rounded, a file a study: judged again, every number must come out as it stands there.

python -m tests.stored.keep RUN    keep the results of a run of a study
python -m tests.stored.keep        judge the kept ones anew, where a claim was changed on purpose: the difference
                                   of the file shows which numbers and verdicts move
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toylab.runs import registry
from toylab.runs.judge import restore_settings
from toylab.runs.store import read_measured, read_results, read_settings
from toylab.runs.study import Job, by_condition
from toylab.settings import convert_value
from toylab.verdicts.claim import judge_claims
from toylab.verdicts.decision import Plan
from toylab.verdicts.judgement import Judgement

FOLDER = Path(__file__).parent
EXAMPLE = "example"
"""A part of results that is large and that no claim reads."""


def kept_runs() -> list[Path]:
    """The files, one a study."""
    return sorted(FOLDER.glob("*.json"))


def judged_again(held: Mapping[str, Any]) -> list[Judgement]:
    """The claims of the study as it is now, by the kept results."""
    study = restore_settings(registry.load_study(held["study"]).STUDY.default(), held["settings"], "settings")
    jobs = {(job.name, job.seed): job for job in study.jobs()}
    found: dict[Job, Any] = {}
    for name, by_seed in held["results"].items():
        for seed, result in by_seed.items():
            job = jobs[name, int(seed)]
            found[job] = convert_value(job.result_type, result, f"{name} of seed {seed}")
    return judge_claims(list(study.claims()), by_condition(found), Plan.of(study.seeds))


def as_numbers(claim: Judgement) -> dict[str, Any]:
    """What may not move unnoticed: all numbers of a judgement and its verdict, without words."""
    told = asdict(claim)
    kept = {name: told[name] for name in ("verdict", "measured", "interval", "seeds", "level", "family", "details")}
    control = claim.control and {"measured": claim.control.measured, "misses": claim.control.misses}
    return json.loads(json.dumps(kept | {"control": control}))


def rounded(value: Any) -> Any:
    """To three significant digits."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, Mapping):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def emptied(value: Any) -> Any:
    """Without the items of its lists and tables."""
    if isinstance(value, Mapping):
        return {name: emptied(inner) for name, inner in value.items()}
    return [] if isinstance(value, list) else value


def main(run: Path | None) -> None:
    """Keep a run, or judge all kept ones anew."""
    if run is None:
        found = [json.loads(path.read_text()) for path in kept_runs()]
    else:
        about = read_settings(run / "settings.json")
        study = restore_settings(registry.load_study(about["study"]).STUDY.default(), about["settings"], run)
        held: dict[str, dict[str, Any]] = {}
        for job in read_results(study, run):
            measured = read_measured(job.folder(run)).items()
            result = {name: emptied(v) if name == EXAMPLE else rounded(v) for name, v in measured if name != "cost"}
            held.setdefault(job.name, {})[str(job.seed)] = result
        found = [{"study": about["study"], "settings": about["settings"], "results": held}]
    for one in found:
        one["judged"] = {claim.id: as_numbers(claim) for claim in judged_again(one)}
        path = FOLDER / f"{one['study']}.json"
        parts = ",\n".join(f"{json.dumps(name)}: {json.dumps(one[name])}" for name in ("study", "settings"))
        rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(by_seed)}" for name, by_seed in one["results"].items())
        judged = ",\n".join(f"{json.dumps(id)}: {json.dumps(told)}" for id, told in one["judged"].items())
        path.write_text(f'{{{parts},\n"results": {{\n{rows}\n}},\n"judged": {{\n{judged}\n}}}}\n')


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2])) if sys.argv[1:] else main(None)
