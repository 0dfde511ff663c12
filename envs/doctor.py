"""Is this machine's LIBERO the one that results were made with? ``python -m colaworld.envs.doctor``

Looks at packages, graphics and LIBERO's files; then, for each suite, lets stored states settle and compares where
objects come to rest and what the pictures look like with the fingerprints kept beside the code (half a minute on two
cores). Prints a table; exits with 0 when nothing failed, 1 when something did, 2 for wrong flags.

    python -m colaworld.envs.doctor --suites libero_goal --json doctor.json
    python -m colaworld.envs.doctor --record new_fingerprints   # writes what this machine sees, compares nothing
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from colaworld.envs import checks
from colaworld.envs.checks import Check
from colaworld.envs.fingerprint import FOLDER, fingerprint_path, load_fingerprint, save_fingerprint, take_fingerprint
from colaworld.envs.whole_file import whole_file

# Tasks looked at: the first of each suite, and libero_spatial's 5, whose bowl newer MuJoCo lets slide. libero_object's
# floor is what newer MuJoCo draws darker.
PROBES = {
    "libero_spatial": (0, 5),
    "libero_object": (0,),
    "libero_goal": (0,),
    "libero_10": (0,),
    "libero_90": (0,),
}
STATES = 2  # of each task


def examine(suites: Sequence[str], folder: Path = FOLDER) -> list[Check]:
    """All rows of the table, with progress on the terminal. Scenes are only built where packages and graphics allow."""
    rows = [*checks.check_versions(checks.libero_requirements()), checks.check_import_name()]
    if any(row.seen == "not installed" for row in rows):
        return [*rows, _unseen("graphics, files and scenes", "a package is missing")]
    graphics = checks.check_graphics()
    rows += graphics
    if any(row.result == "fail" for row in graphics):
        return [*rows, _unseen("files and scenes", "no picture can be drawn")]
    rows.append(checks.check_import())
    if rows[-1].result == "fail":
        return [*rows, _unseen("files and scenes", "LIBERO cannot be imported")]
    rows.append(checks.check_assets())
    rows += [checks.check_tasks(suite) for suite in suites]
    probes = [(suite, task_id) for suite in suites for task_id in PROBES[suite]]
    with tqdm(probes, unit="scene", leave=False) as progress:
        for suite, task_id in progress:
            progress.set_description(f"{suite} {task_id}")
            rows += checks.check_scene(load_fingerprint(fingerprint_path(suite, task_id, folder)))
    return rows


def record(suites: Sequence[str], folder: Path) -> list[Path]:
    """Write this machine's fingerprints of ``suites`` into ``folder``. Raises ValueError where one exists already."""
    from colaworld.envs.scene import LiberoScene

    probes = [(suite, task_id) for suite in suites for task_id in PROBES[suite]]
    for suite, task_id in probes:
        if fingerprint_path(suite, task_id, folder).exists():
            raise ValueError(
                f"{fingerprint_path(suite, task_id, folder)} exists, and a fingerprint is never overwritten; "
                "choose another folder"
            )
    written = []
    with tqdm(probes, unit="scene", leave=False) as progress:
        for suite, task_id in progress:
            progress.set_description(f"{suite} {task_id}")
            fingerprint = take_fingerprint(LiberoScene(suite, task_id), STATES)
            written.append(save_fingerprint(fingerprint, folder))
    return written


def table(rows: Sequence[Check]) -> str:
    """The rows as text, what to do on a line of its own, and a count at the end."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'check':{width}}  result  seen"]
    for row in rows:
        lines.append(f"{row.name:{width}}  {row.result:6}  {row.seen}")
        if row.advice:
            lines.append(f"{'':{width}}          to do: {row.advice}")
    counts = {result: sum(row.result == result for row in rows) for result in ("pass", "warn", "fail")}
    return "\n".join([*lines, ", ".join(f"{count} {result}" for result, count in counts.items())])


def write_report(path: Path, rows: Sequence[Check]) -> None:
    """The rows as JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps({"checks": [asdict(row) for row in rows]}, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code. Plain argparse: it has to run where little else is installed."""
    parser = argparse.ArgumentParser(prog="python -m colaworld.envs.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--suites", nargs="+", choices=list(PROBES), default=list(PROBES), help="default: all five")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--record", type=Path, metavar="DIR", help="write new fingerprints there instead of comparing")
    options = parser.parse_args(arguments)
    suites = list(dict.fromkeys(options.suites))
    try:
        if options.record:
            for path in record(suites, options.record):
                print(path)
            return 0
        rows = examine(suites)
        print(table(rows))
        if options.json:
            write_report(options.json, rows)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(any(row.result == "fail" for row in rows))


def _unseen(name: str, reason: str) -> Check:
    return Check(name=name, result="warn", seen=f"not looked at: {reason}", advice="see above, then run again")


if __name__ == "__main__":
    sys.exit(main())
