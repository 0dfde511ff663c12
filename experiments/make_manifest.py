r"""Make the frozen goal instances that planning is scored on::

    python experiments/make_manifest.py --name libero_goals_v2 --sheet goals.png
    python experiments/make_manifest.py --name libero_place_v2 --long
    python experiments/make_manifest.py --name libero_goals_dev_v1 --categories reach push --per-category 8 \
        --scenes libero_goal_0 libero_spatial_0 --first-seed 3000000    # the shipped one for choosing settings

VP2 draws start and goal from scripted trajectories that are not in the training data. Here every instance has a seed of
1,000,000 or more, its start lies at most 12 environment steps before its goal on an expert's trajectory, and the expert
that is scored beside the planners finishes it from there. ``--long`` makes the list of ``place`` from LIBERO's initial
states instead, with a frame of every stage.

A manifest is frozen when it is written: changes get a new name. Found instances wait in ``<name>.parts``; killed, the
same command goes on.
"""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as imageio
import numpy as np
from einops import rearrange
from tqdm import tqdm

from colaworld.envs.expert_goals import TASKS
from colaworld.envs.fingerprint import simulator_fingerprint
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.manifest import FIRST_SEED, FOLDER, Category, Instance, Manifest, Predicate
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.cli import main
from colaworld.experiments.episode_log import write_text
from colaworld.experiments.goal_instances import Candidate, attempt, attempt_long
from colaworld.experiments.simulator_processes import only_environment, simulator_pool
from colaworld.experiments.simulator_world import YARDSTICK

LONG_STEPS = 60
ARRAYS = ("start", "goal", "goal_frame", "start_frame", "subgoal_frames")
MOST_TRIES = 60
"""Seeds tried for each instance that is wanted, before the scene is given up."""
_SHORT: Mapping[Category, tuple[tuple[str, int], ...]] = {
    "reach": TASKS["reach"],
    "push": (("libero_goal", 0), ("libero_spatial", 2), ("libero_object", 1)),
    "lift": TASKS["lift"],
    "place": (
        *(("libero_object", task) for task in (0, 1, 5, 7, 9)),
        *(("libero_spatial", task) for task in (0, 2, 5, 6, 8)),
        *(("libero_goal", task) for task in (1, 4, 6, 8)),
    ),
    "open_drawer": TASKS["open_drawer"],
    "close_drawer": TASKS["close_drawer"],
}


class Cell(NamedTuple):
    """``count`` instances of one category in one task's scene."""

    category: Category
    suite: str
    task_id: int
    count: int


class Row(NamedTuple):
    """A found instance, and the simulator it was found in."""

    cell: Cell
    seed: int
    candidate: Candidate
    about: dict[str, Any]


def make_manifest(
    name: str,
    folder: Path = FOLDER,
    per_category: int = 26,
    categories: tuple[Category, ...] = tuple(_SHORT),
    scenes: tuple[str, ...] = (),
    long: bool = False,
    first_seed: int = FIRST_SEED,
    workers: int = 2,
    sheet: Path | None = None,
) -> None:
    """Write the manifest ``name``: ``name.json`` and ``name.npz``.

    Args:
        name: of the manifest; one that exists is frozen and never overwritten.
        folder: where to write; the shipped manifests' by default.
        per_category: instances of each category, spread evenly over its scenes.
        categories: which categories.
        scenes: only these, such as libero_goal_0; by default a choice of those that each category has.
        long: `place` from LIBERO's initial states, with sub-goal frames.
        first_seed: the first seed tried; training data uses seeds below 1,000,000.
        workers: parallel processes.
        sheet: write a picture of all starts (upper rows) and goals (lower rows) here.
    """
    out = folder / f"{name}.json"
    if out.exists():
        raise ValueError(f"{out} exists, and a manifest is frozen once it is made; choose another --name")
    if sheet is not None and (sheet.suffix != ".png" or not sheet.absolute().parent.is_dir()):
        raise ValueError(f"--sheet must be a .png file in a folder that exists, got {sheet}")
    if per_category < 1 or workers < 1:
        raise ValueError(f"per_category and workers must be at least 1, got {per_category} and {workers}")
    if first_seed < FIRST_SEED:
        raise ValueError(f"first_seed must be at least {FIRST_SEED} (training data lies below), got {first_seed}")
    if not categories or set(categories) - set(_SHORT):
        raise ValueError(f"categories must be some of {', '.join(_SHORT)}, got {list(categories)}")
    if long and categories not in (tuple(_SHORT), ("place",)):
        raise ValueError(f"--long is a list of place only, got --categories {' '.join(categories)}")
    cells = _cells(("place",) if long else categories, per_category, scenes)
    parts = folder / f"{name}{'-long' if long else ''}-{first_seed}.parts"
    found = _find(cells, parts, first_seed, long, workers)
    rows = [row for cell in cells for row in found[cell]]
    manifest = _manifest(name, _interleaved(rows), long)
    _write(manifest, out)
    shutil.rmtree(parts)
    print(f"{out}: {len(manifest.instances)} instances, sha256 {manifest.sha256}")
    if sheet is not None:
        imageio.imwrite(sheet, _contact_sheet([row.candidate for row in _interleaved(rows)]))


def _cells(categories: tuple[Category, ...], per_category: int, scenes: tuple[str, ...] = ()) -> list[Cell]:
    """``per_category`` instances of each category, as evenly as they go into its scenes. ValueError for a category that
    has none of ``scenes``.
    """
    cells = []
    for category in categories:
        tasks = _SHORT[category]
        if scenes:
            tasks = tuple(task for task in TASKS[category] if "{}_{}".format(*task) in scenes)
        if not tasks:
            raise ValueError(f"--scenes {' '.join(scenes)}: {category} has none of them")
        shares = [per_category // len(tasks) + (number < per_category % len(tasks)) for number in range(len(tasks))]
        cells += [Cell(category, *task, share) for task, share in zip(tasks, shares, strict=True) if share]
    return cells


def _find(
    cells: list[Cell], parts: Path, first_seed: int, long: bool, workers: int
) -> dict[Cell, list[Row]]:
    """All instances; what ``parts`` holds already is not searched for again."""
    scenes: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        scenes.setdefault((cell.suite, cell.task_id), []).append(cell)
    with (
        simulator_pool(workers) as pool,
        tqdm(total=sum(cell.count for cell in cells), unit="instance") as progress,
    ):
        futures = [pool.submit(_search_scene, mine, parts, first_seed, long) for mine in scenes.values()]
        for future in as_completed(futures):
            progress.update(future.result())
    return {cell: [_read_part(_part(parts, cell, k), cell) for k in range(cell.count)] for cell in cells}


def _part(parts: Path, cell: Cell, number: int) -> Path:
    return parts / f"{cell.suite}_{cell.task_id}_{cell.category}_{number}.npz"


def _search_scene(cells: list[Cell], parts: Path, first_seed: int, long: bool) -> int:
    """Find every instance of one scene; each is on disk as soon as it is found."""
    for cell in cells:
        seed = first_seed - 1
        for number in range(cell.count):
            path = _part(parts, cell, number)
            if path.exists():
                seed = _read_part(path, cell).seed
                continue
            env = only_environment(suite=cell.suite, task_id=cell.task_id)
            seed, candidate = _next(env, cell, seed + 1, long)
            _write_part(path, seed, candidate, env)
    return sum(cell.count for cell in cells)


def _write_part(path: Path, seed: int, candidate: Candidate, env: LiberoEnv) -> None:
    about = {
        "seed": seed,
        "predicate": candidate.predicate.described(),
        "expert_steps": candidate.expert_steps,
        "phase": candidate.phase,
        "render_profile": env.render_profile,
        "frame_skip": env.frame_skip,
        "simulator": simulator_fingerprint(env),
    }
    arrays = {name: getattr(candidate, name) for name in ARRAYS if getattr(candidate, name) is not None}
    _save(path, {"about": json.dumps(about), **arrays})


def _read_part(path: Path, cell: Cell) -> Row:
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        arrays = {name: stored[name] for name in ARRAYS if name in stored}
    predicate = Predicate.read(about.pop("predicate"))
    steps = {"expert_steps": about.pop("expert_steps"), "phase": about.pop("phase")}
    return Row(cell, about.pop("seed"), Candidate(predicate=predicate, **steps, **arrays), about)


def _next(env: LiberoEnv, cell: Cell, seed: int, long: bool) -> tuple[int, Candidate]:
    for tried in range(seed, seed + MOST_TRIES):
        candidate = attempt_long(env, tried) if long else attempt(env, cell.category, tried)
        if candidate is not None:
            return tried, candidate
    raise ValueError(
        f"{cell.suite} task {cell.task_id}: no instance of {cell.category} with seeds {seed} to {seed + MOST_TRIES - 1}"
    )


def _interleaved(rows: list[Row]) -> list[Row]:
    """Categories in turn, and within each its scenes in turn, so that the first few instances hold some of all."""
    seen: dict[Any, int] = {}

    def next_turn(key: Any) -> int:
        seen[key] = seen.get(key, -1) + 1
        return seen[key]

    by_scene = sorted(rows, key=lambda row: next_turn(row.cell))
    return sorted(by_scene, key=lambda row: (next_turn(row.cell.category), list(_SHORT).index(row.cell.category)))


def _manifest(name: str, rows: list[Row], long: bool) -> Manifest:
    candidates: list[Candidate] = [row.candidate for row in rows]
    instances = tuple(
        Instance(
            instance=index,
            category=row.cell.category,
            suite=row.cell.suite,
            task_id=row.cell.task_id,
            seed=row.seed,
            predicate=row.candidate.predicate,
            expert_steps=row.candidate.expert_steps,
            phase=row.candidate.phase,
        )
        for index, row in enumerate(rows)
    )
    first = rows[0].about
    height, width = candidates[0].goal_frame.shape[:2]
    return Manifest(
        name=name,
        mujoco=version("mujoco"),
        robosuite=version("robosuite"),
        render_profile=first["render_profile"],
        height=height,
        width=width,
        frame_skip=first["frame_skip"],
        instances=instances,
        starts=tuple(each.start for each in candidates),
        goals=tuple(each.goal for each in candidates),
        goal_frames=np.stack([each.goal_frame for each in candidates]),
        subgoal_frames=np.stack([each.subgoal_frames for each in candidates]) if long else None,
        **({"episode_steps": LONG_STEPS} if long else {"yardstick": YARDSTICK}),
        fingerprint={f"{row.cell.suite}_{row.cell.task_id}": row.about["simulator"] for row in rows},
    )


def _write(manifest: Manifest, out: Path) -> None:
    """The arrays, then what names them: a reader never sees half a manifest."""
    _save(out.with_suffix(".npz"), manifest.arrays())
    write_text(out, json.dumps({**manifest.description(), "sha256": manifest.sha256}, indent=1) + "\n")


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _contact_sheet(candidates: list[Candidate], columns: int = 12) -> np.ndarray:
    """Starts over goals, ``columns`` pairs in a row, doubled in size: uint8 (height, width, 3)."""
    blank = np.zeros_like(candidates[0].goal_frame)
    pairs = [np.concatenate([candidate.start_frame, candidate.goal_frame]) for candidate in candidates]
    pairs += [np.concatenate([blank, blank])] * (-len(pairs) % columns)
    grid = rearrange(np.stack(pairs), "(row column) h w c -> (row h) (column w) c", column=columns)
    return grid.repeat(2, axis=0).repeat(2, axis=1)


if __name__ == "__main__":
    main(make_manifest)
