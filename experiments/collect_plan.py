"""What is to be recorded: jobs (what an episode depends on beside its seed), and named plans of many of them.

A plan is a JSON file, shipped as ``plans/<name>.json``::

    {"name": "play-v1", "height": 64, "width": 64, "render_profile": "lite",
     "entries": [{"suite": "libero_goal", "task_id": 0, "kind": "mixed", "episodes": 84, "steps": 60,
                  "first_seed": 100000}]}

Entries of one scene go into one file, in the plan's order. Training data uses seeds below 1,000,000; goal manifests lie
above.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from colaworld.envs.quiet import libero
from colaworld.envs.render import choose_profile
from colaworld.envs.scene import SUITES

PLANS = Path(__file__).parent / "plans"
TRAINING_SEEDS = 1_000_000
KINDS = ("mixed", "play", "push", "random", "expert")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one episode depends on beside its seed."""

    suite: str
    task_id: int
    steps: int
    kind: str
    height: int
    width: int
    render_profile: str

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        choose_profile(self.render_profile, self.height, self.width)

    @property
    def scene(self) -> str:
        return f"{self.suite}_{self.task_id}"

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def part(self, out: Path, seed: int) -> Path:
        """Where the finished episode of ``seed`` waits to go into ``out``; a folder of its own for each job."""
        digest = hashlib.sha256(self.text().encode()).hexdigest()[:12]
        return out.with_name(f"{out.name}.parts") / digest / f"{seed}.hdf5"


Episodes = tuple[tuple[Job, int], ...]
"""Episodes to record, as (job, seed), in the order in which a file holds them."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """``episodes`` episodes of one job, with the seeds from ``first_seed`` on."""

    job: Job
    episodes: int
    first_seed: int

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        last = self.first_seed + self.episodes - 1
        if self.first_seed < 0 or last >= TRAINING_SEEDS:
            raise ValueError(f"seeds {self.first_seed} to {last} do not lie in 0 to {TRAINING_SEEDS - 1}")

    def tasks(self) -> Episodes:
        return tuple((self.job, seed) for seed in range(self.first_seed, self.first_seed + self.episodes))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A named list of entries."""

    name: str
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"a plan's name consists of letters, digits, - and _, got {self.name!r}")
        if not self.entries:
            raise ValueError(f"plan {self.name} has no entries")
        for scene, episodes in self.scenes().items():
            seeds = [seed for _, seed in episodes]
            if len(set(seeds)) < len(seeds):
                twice = next(seed for seed in seeds if seeds.count(seed) > 1)
                raise ValueError(f"plan {self.name}: seed {twice} of scene {scene} is planned twice")

    def scenes(self) -> dict[str, Episodes]:
        """The episodes of each scene's file, in the order recorded."""
        found: dict[str, Episodes] = {}
        for entry in self.entries:
            found[entry.job.scene] = found.get(entry.job.scene, ()) + entry.tasks()
        return found

    def text(self, scene: str | None = None) -> str:
        """The plan, or its part for one scene, as one line of JSON: equal plans have equal texts."""
        entries = [asdict(entry) for entry in self.entries if scene in (None, entry.job.scene)]
        return json.dumps({"name": self.name, "entries": entries}, sort_keys=True)


def load_plan(name_or_path: str | Path) -> Plan:
    """A shipped plan by name, or any by the path of its ``.json``. FileNotFoundError or ValueError names what is
    wrong."""
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = PLANS / f"{name_or_path}.json"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in PLANS.glob("*.json"))) or "none"
        raise FileNotFoundError(f"no plan {str(name_or_path)!r} (looked for {path}; shipped: {shipped})")
    try:
        described = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"plan {path} is not JSON: {error}") from error
    if not isinstance(described, dict):
        raise ValueError(f"plan {path} should be a JSON object, got {type(described).__name__}")
    shared = {"name": str, "height": int, "width": int, "render_profile": str, "entries": list}
    _check_fields(described, shared, f"plan {path}")
    entries = [_entry(entry, described, f"plan {path}, entry {i}") for i, entry in enumerate(described["entries"])]
    return Plan(name=described["name"], entries=tuple(entries))


def check_scenes(jobs: Iterable[Job]) -> None:
    """ValueError for a suite or a task that LIBERO does not have, before anything is built or written."""
    for suite, task_id in sorted({(job.suite, job.task_id) for job in jobs}):
        if suite not in SUITES:
            raise ValueError(f"unknown suite {suite!r}; known: {', '.join(SUITES)}")
        count = len(libero().task_maps[suite])
        if not 0 <= task_id < count:
            raise ValueError(f"unknown task_id {task_id} of suite {suite!r}; it must be 0..{count - 1}")


def _entry(entry: Any, plan: Mapping[str, Any], where: str) -> Entry:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} should be a JSON object, got {type(entry).__name__}")
    own = {"suite": str, "task_id": int, "kind": str, "steps": int, "episodes": int, "first_seed": int}
    _check_fields(entry, own, where)
    values = {**plan, **entry}
    try:
        job = Job(**{field.name: values[field.name] for field in fields(Job)})
        return Entry(job=job, episodes=entry["episodes"], first_seed=entry["first_seed"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_fields(found: Mapping[str, Any], wanted: Mapping[str, type], where: str) -> None:
    for name, kind in wanted.items():
        if name not in found:
            raise ValueError(f"{where}: field {name!r} is missing")
        if type(found[name]) is not kind:
            raise ValueError(f"{where}: field {name!r} should be {kind.__name__}, got {found[name]!r}")
    unknown = sorted(set(found) - set(wanted))
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; known: {', '.join(wanted)}")
