"""The plan inspector: what was imagined and what happened in every episode of an evaluation, as one HTML file.

    python experiments/inspector.py runs/vp2_eval/cem-20250101-120000                       # makes report.html again
    python experiments/inspector.py runs/vp2_eval/cem-20250101-120000 --max-megabytes 200   # with more pictures

The page needs no network and no server: style, scripts, numbers and pictures are all in the file, and its content
security policy forbids everything else. It is made from ``episodes.jsonl`` and the files in ``episodes`` (see
``inspector_episode``), so it can be made after a resumed run, or anew. ``inspector_live`` serves the same page while
episodes are played.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Any

import numpy as np
import tyro

from colaworld.envs.whole_file import whole_file
from colaworld.experiments import cli
from colaworld.experiments.episode_log import read_lines
from colaworld.experiments.inspector_episode import Packed, episode_name, load, stored_bytes
from colaworld.experiments.report import paired_tests, success_table

NAME = "report.html"
MAX_MEGABYTES = 60.0
PAGE = files("colaworld.experiments") / "inspector_page"
SCRIPTS = ("frames.js", "charts.js", "plan.js", "table.js", "page.js")
"""In the order in which they are read; all are one script in the page."""
FACTS = ("row", "planner", "instance", "category", "scene", "seed", "success", "steps", "seconds")
DISTANCES = ("start_distance", "best_distance", "final_distance")


def write_report(
    out: Path, records: Sequence[Mapping[str, Any]], *, title: str, max_megabytes: float = MAX_MEGABYTES
) -> Path:
    """Write the page of ``records`` (lines of the log) with what ``out/episodes`` has of them; returns its path.

    Pictures of failures come first when not all fit into ``max_megabytes``; the page says which are left out. Raises
    ValueError for a limit that is not positive and for damaged files.
    """
    if not max_megabytes > 0:
        raise ValueError(f"max_megabytes must be positive, got {max_megabytes}")
    kept, left_out = choose_pictures(out, records, max_megabytes)
    index = make_index(records, title=title, pictures=kept, left_out=left_out)
    path = out / NAME
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(page(index, ((name, load(out, name)) for name in kept), live=False))
    return path


def choose_pictures(
    out: Path, records: Sequence[Mapping[str, Any]], max_megabytes: float
) -> tuple[list[str], list[str]]:
    """Names of the episodes whose pictures are shown, and of those for which there is no room."""
    room, kept, left_out = max_megabytes * 1e6, [], []
    for record in sorted(records, key=lambda record: bool(record["success"])):
        size = stored_bytes(out, name := episode_name(record))
        if size is None:
            continue
        if size <= room:
            kept.append(name)
            room -= size
        else:
            left_out.append(name)
    return kept, left_out


def make_index(
    records: Sequence[Mapping[str, Any]],
    *,
    title: str,
    pictures: Sequence[str] = (),
    left_out: Sequence[str] = (),
    running: Mapping[str, Any] | None = None,
    total: int | None = None,
) -> dict[str, Any]:
    """All that a page knows before it shows an episode: one entry per episode, the table, the tests.

    ``running`` is the episode that is being played, ``total`` how many there will be (None: these).
    """
    shown, missing = set(pictures), set(left_out)
    episodes = [episode_entry(record) for record in records]
    for entry in episodes:
        entry["pictures"] = "yes" if entry["name"] in shown else "left out" if entry["name"] in missing else "no"
    if running is not None:
        episodes.append({**running, "name": episode_name(running), "running": True, "pictures": "yes"})
    rows = list(dict.fromkeys(record["row"] for record in records))
    others = [row for row in rows if row != "planner"] if "planner" in rows else []
    return {
        "title": title,
        "episodes": episodes,
        "table": success_table(records),
        "tests": [test for row in others for test in paired_tests(records, "planner", row)],
        "total": len(records) if total is None else total,
    }


def episode_entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the page's list of episodes."""
    seconds = record["plan_seconds"]
    return {
        "name": episode_name(record),
        **{name: record.get(name) for name in (*FACTS, *DISTANCES)},
        "plan_seconds": float(np.median(seconds)) if seconds else None,
    }


def page(index: Mapping[str, Any], episodes: Iterator[tuple[str, Packed | None]], *, live: bool) -> Iterator[str]:
    """The page in pieces, so that no more than one episode is in memory."""
    style, script = read("page.css"), "\n".join(read(name) for name in SCRIPTS)
    head, tail = read("page.html").split("$episodes")
    reached = "'self'" if live else "'none'"
    policy = (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}'; img-src blob: data:; "
        f"connect-src {reached}; base-uri 'none'; form-action 'none'"
    )
    yield Template(head).substitute(
        policy=policy, title=html.escape(index["title"]), style=style, live=str(live).lower(), index=embed(index)
    )
    for name, packed in episodes:
        if packed is not None:
            label = html.escape(name)
            yield f'<script type="application/json" data-episode="{label}">{embed(payload(packed))}</script>\n'
    yield Template(tail).substitute(script=script)


def payload(packed: Packed) -> dict[str, Any]:
    """An episode as the page's script reads it."""
    return {**packed.detail, "sprite": base64.b64encode(packed.sprite).decode("ascii")}


def embed(data: Any) -> str:
    """JSON that is safe inside a script element, whatever its strings say: no ``<`` can end the element."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def read(name: str) -> str:
    """A part of the page's template."""
    return (PAGE / name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def title_of(out: Path) -> str:
    """What a page of a results folder is called."""
    return f"Plans of {out.resolve().name}"


def inspector(folder: Annotated[Path, tyro.conf.Positional], max_megabytes: float = MAX_MEGABYTES) -> None:
    """Make the inspector's page of a results folder again.

    Args:
        folder: Results folder of vp2_eval.py.
        max_megabytes: Pictures beyond this many megabytes are left out, those of successes first.
    """
    log = folder / "episodes.jsonl"
    if not log.exists():
        raise FileNotFoundError(f"{log} is missing: {folder} is no results folder of vp2_eval.py")
    records, _ = read_lines(log)
    print(write_report(folder, list(records.values()), title=title_of(folder), max_megabytes=max_megabytes))


if __name__ == "__main__":
    cli.main(inspector)
