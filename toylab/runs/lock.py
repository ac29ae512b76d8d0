"""Claims locks: claims with their thresholds and digests of the measuring code, fixed before any seed is run.

    studies/<study>/claims.lock    lock of the default settings, committed and shipped with the package
    FOLDER/claims.lock             lock of a run, written before its first job; every result stores its checksum

`toylab claims FOLDER --check` compares a run, its lock and the code. A change of the measuring code counts as a change
of the criterion; a change of comments, docstrings or type annotations of functions does not. `python -m
toylab.runs.lock` rewrites the locks of the package.
"""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from toylab.console import ToylabError
from toylab.files import read_bytes, read_record, sha256_of, write_record
from toylab.runs import registry
from toylab.runs.store import read_measured, read_results, read_settings
from toylab.runs.study import Study
from toylab.verdicts.claim import Claim

LOCK_FILE = "claims.lock"
JUDGING = "toylab.verdicts"
"""The package that judges every study."""
PROBES = "toylab.probes"
"""The package of which a study's lock has the files that its code imports, directly or through other probes."""
NOT_MEASURING = ("figures.py", "__init__.py")
"""Files of a study without measuring code."""


def lock_of(study: Study) -> dict[str, Any]:
    """The claims of a study at these settings, with resolved thresholds, and digests of the measuring code."""
    return {
        "study": registry.study_name(type(study)),
        "claims": {claim.id: _claim_record(claim) for claim in study.claims()},
        "seeds": list(study.seeds),
        "code": {name: _digest_of_code(path) for name, path in _measuring_files(type(study))},
    }


def _claim_record(claim: Claim) -> dict[str, Any]:
    low, high = claim.criterion.low, claim.criterion.high
    return {
        "claim": claim.statement,
        "kind": claim.kind,
        "asks": claim.asks,
        "margin": claim.margin,
        "criterion": claim.criterion_text,
        "from": low if low > -float("inf") else None,
        "to": high if high < float("inf") else None,
        "control": claim.control.what if claim.control else None,
        "conditions": [*claim.conditions, *claim.optional, *(claim.control.conditions if claim.control else ())],
        "needs": [need.otherwise for need in claim.needs],
        "cannot be decided": claim.undecidable,
    }


def _measuring_files(study: type) -> list[tuple[str, Path]]:
    """The files that measure and judge: files of the study, files shared by all studies, and the probes that both
    import."""
    root = Path(str(files("toylab")))
    shared = [(part, root / part) for part in ("model/controls.py", "training/evaluate.py")]
    direct = [*_files_of_study(study), *shared]
    return [*direct, *_probe_files([path for _, path in direct]), *_files_of(JUDGING)]


def _files_of_study(study: type) -> Iterator[tuple[str, Path]]:
    home = _source_file(study)
    if home is not None and ":" not in registry.study_name(study):
        yield from ((path.name, path) for path in sorted(home.parent.glob("*.py")) if path.name not in NOT_MEASURING)
    elif home is not None:
        yield home.name, home


def _files_of(package: str) -> list[tuple[str, Path]]:
    folder = package.partition(".")[2]
    return [(f"{folder}/{path.name}", path) for path in sorted(Path(str(files(package))).glob("*.py"))]


def _probe_files(importers: Sequence[Path]) -> list[tuple[str, Path]]:
    """The files of the probes that these files import, directly or through other probes."""
    modules = {path.stem: (name, path) for name, path in _files_of(PROBES)}
    exported = {name: module for module, name in _probe_imports(modules["__init__"][1])}
    needed: set[str] = set()
    waiting = list(importers)
    while waiting:
        imports = {module or exported.get(name, name) for module, name in _probe_imports(waiting.pop())}
        new = (imports if imports <= modules.keys() else modules.keys()) - needed
        needed |= new
        waiting += [modules[module][1] for module in new]
    return [file for module, file in modules.items() if module in needed]


def _probe_imports(path: Path) -> Iterator[tuple[str, str]]:
    """Module of the package of probes and name, per imported name; no module where the package exports the name, and
    "*" as the name where the package is imported as a whole."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in getattr(node, "names", ()) if isinstance(node, ast.Import | ast.ImportFrom)]
        module = getattr(node, "module", "") or "" if isinstance(node, ast.ImportFrom) else ""
        if module == PROBES or module.startswith(PROBES + "."):
            yield from ((module[len(PROBES) + 1 :], name) for name in names)
        elif (f"{module}.probes" == PROBES and "probes" in names) or any(
            (n + ".").startswith("toylab.") for n in names
        ):
            yield "", "*"


def _source_file(study: type) -> Path | None:
    """The source file of a study; None for a study defined at a prompt or in a notebook."""
    try:
        source = inspect.getsourcefile(study)
    except (OSError, TypeError):
        return None
    return Path(source) if source and Path(source).exists() else None


def _digest_of_code(path: Path) -> str:
    """A digest of a file's code without comments, formatting, docstrings and type annotations of functions."""
    return _digest_of_source(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=256)  # a sweep locks many runs of the same code
def _digest_of_source(source: str) -> str:
    return sha256_of(json.dumps(_tree_as_json(ast.parse(source))).encode())[:16]


def _tree_as_json(node: Any) -> Any:
    """A syntax tree as JSON without empty fields, which makes it equal in every Python version."""
    if isinstance(node, list):
        return [_tree_as_json(child) for child in node if not (isinstance(child, ast.Expr) and _is_text(child.value))]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None]
    if isinstance(node, ast.arg | ast.FunctionDef):
        fields = [(name, value) for name, value in fields if name not in ("annotation", "returns")]
    json_fields = {name: _tree_as_json(value) for name, value in fields}
    return [type(node).__name__, {name: value for name, value in json_fields.items() if value != []}]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def published_lock(study: type) -> Path | None:
    """The path of the lock that the package ships for a study; None for a user's own study."""
    home = _source_file(study)
    path = home.parent / LOCK_FILE if home is not None and ":" not in registry.study_name(study) else None
    return path if path is not None and path.exists() else None


def refuse_changed(study: Study, out: Path | str) -> None:
    """Raises `ToylabError`, naming the differences, if the lock of a run has other claims or other measuring code."""
    path = Path(out) / LOCK_FILE
    if path.exists() and (changes := differences(read_lock(out), lock_of(study))):
        raise ToylabError(
            f"{out}: was locked with other claims or measuring code ({'; '.join(changes[:3])}); results of both cannot "
            "be combined: give another folder with --out"
        )


def write_lock(study: Study, out: Path | str) -> None:
    """Write the lock of a run that has none yet, as a copy of the lock of the package if the contents agree.

    `fixed` in the lock is the fixed number of seeds, or 0 for a run judged at looks.
    """
    path = Path(out) / LOCK_FILE
    if path.exists():
        return
    current = lock_of(study)
    published = published_lock(type(study))
    matches_package = published is not None and not differences(read_record(published), current)
    about = read_settings(Path(out) / "settings.json")
    run = {"seeds": about["settings"]["seeds"], "fixed": about["fixed"]}
    origin = {
        "locked by": "the package" if matches_package else "this run",
        "commit": _commit_of(published) if matches_package else None,
    }
    write_record(path, {**current, **run, **origin})


def read_lock(out: Path | str) -> dict[str, Any]:
    """The lock of a run. Raises `ToylabError`, naming the file, if it is missing, damaged or not a lock."""
    path = Path(out) / LOCK_FILE
    record = read_record(path, "give another folder")
    claims, code = record.get("claims"), record.get("code")
    if not (
        isinstance(claims, dict)
        and all(isinstance(claim, dict) for claim in claims.values())
        and isinstance(code, dict)
        and isinstance(record.get("seeds"), list)
        and isinstance(record.get("fixed"), int)
        and isinstance(record.get("locked by"), str)
        and isinstance(record.get("commit"), str | None)
    ):
        raise ToylabError(f"{path}: is not the lock of a run; give another folder")
    return record


def lock_checksum(out: Path | str) -> str:
    """The checksum of the lock of a run, which every result stores."""
    return sha256_of(read_bytes(Path(out) / LOCK_FILE))


def differences(locked: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The differences between two locks in words: claims by id and attribute, code by file."""
    messages = []
    before, after = locked["claims"], current["claims"]
    for id in sorted({*before, *after}):
        if id not in before or id not in after:
            messages.append(f"claim {id!r} is {'not in the lock' if id not in before else 'no longer there'}")
        else:
            messages += [
                f"claim {id!r}: {part} was {before[id].get(part)!r}, is {value!r}"
                for part, value in after[id].items()
                if before[id].get(part) != value
            ]
    code, new = locked["code"], current["code"]
    names = {*new, *(name for name in code if "/" not in name)}  # shared files that no longer measure are not compared
    return messages + [f"{name} differs" for name in sorted(names) if code.get(name) != new.get(name)]


def check_run(out: Path | str, study: type | None = None) -> list[str]:
    """The differences between a run and its lock: claims, code, seeds, and results measured under another lock.

    Appended seeds are no difference.

    Args:
        study: the class of a user's own study.

    Raises:
        ToylabError: if the folder holds no run, or a run without a lock.
    """
    from toylab.runs.judge import restore_settings

    out = Path(out)
    about = read_settings(out / "settings.json")
    study_class = registry.study_of_folder(
        about["study"], out, study, "toylab claims {folder} --check --study {study}"
    ).STUDY
    settings = restore_settings(
        registry.preset_settings(study_class, "default"), about["settings"], out / "settings.json"
    )
    locked = read_lock(out)
    messages = differences(locked, lock_of(settings))
    seeds = about["settings"]["seeds"][: len(locked["seeds"])]
    for name, before, current in (("seeds", locked["seeds"], seeds), ("fixed", locked["fixed"], about["fixed"])):
        messages += [f"{name} was {before!r}, is {current!r}"] if before != current else []
    checksum = lock_checksum(out)
    mismatched = [
        job for job in read_results(settings, out) if read_measured(job.folder(out))["cost"].get("lock") != checksum
    ]
    if mismatched:
        messages.append(f"{len(mismatched)} results were measured under another lock, {mismatched[0].name} among them")
    _, _, committed = (locked["commit"] or "").partition(" ")
    if committed and datetime.fromisoformat(committed) > datetime.fromisoformat(about["date"]):
        messages.append(f"the lock was committed at {committed}, after the run began at {about['date']}")
    return messages


def _commit_of(path: Path | None) -> str | None:
    """The last commit of a file with its date; None without git, or if the file has uncommitted changes."""
    if path is None:
        return None
    git = ["git", "-C", str(path.parent)]
    commands = (["status", "--porcelain", "--", path.name], ["log", "-1", "--format=%H %cI", "--", path.name])
    try:
        changed, commit = (
            subprocess.run([*git, *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for arguments in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return None if changed else commit or None


def write_package_locks() -> None:
    """Write the locks of the package, for each study at its default settings."""
    for name in registry.study_names():
        study = registry.load_study(name).STUDY.default()
        home = _source_file(type(study))
        assert home is not None
        write_record(home.parent / LOCK_FILE, lock_of(study))


if __name__ == "__main__":
    write_package_locks()
