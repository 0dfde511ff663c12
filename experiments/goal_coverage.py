"""Where recorded data has been, and whether goals lie there::

    python experiments/goal_coverage.py --data data/play-v1 --manifest libero_goals_v1 --out coverage.png

One row for each scene: density of the gripper's and of the objects' recorded positions from above (x, y) and from the
side (x, z), with the manifest's goal positions over it. Printed: which share of the goal positions has a recorded
position of the same thing, the gripper or that object, within 2 and 5 cm. The goal of a drawer is a joint, has no position,
and is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from scipy.spatial import cKDTree

from colaworld.envs.demos import ClipDataset
from colaworld.envs.manifest import DEFAULT_MANIFEST, Instance, load_manifest
from colaworld.experiments.cli import main

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

GRIPPER = "gripper"
RADII = (0.02, 0.05)
"""Metres."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A goal position ``place`` (3,), metres, of ``thing``: the gripper or an object."""

    scene: str
    thing: str
    place: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of ``goals`` have recorded positions within each of ``RADII``."""

    goals: int
    covered: tuple[int, ...]

    def text(self) -> str:
        shares = (
            f"{count}/{self.goals} ({100 * count / self.goals:.0f} %) within {radius * 100:g} cm"
            for count, radius in zip(self.covered, RADII, strict=True)
        )
        return ", ".join(shares) if self.goals else "no goals"


Places = Mapping[str, Mapping[str, np.ndarray]]
"""Recorded positions (n, 3), metres, by scene and thing."""


def coverage(
    data: tuple[Path, ...], manifest: str = DEFAULT_MANIFEST, out: Path = Path("coverage.png")
) -> None:
    """Draw where the data has been and print how much of the goals that covers.

    Args:
        data: recorded HDF5 files, folders of them, or starter folders.
        manifest: name of a shipped goal manifest, or the path of its ``.json``.
        out: the picture to write.
    """
    if out.suffix != ".png":
        raise ValueError(f"--out should end in .png, got {out}")
    instances = load_manifest(manifest).instances
    placed = [goal for goal in map(goal_of, instances) if goal is not None]
    places = recorded_places(data)
    here = [goal for goal in placed if goal.scene in places]
    scenes = sorted({each.scene for each in instances})
    absent = [scene for scene in scenes if scene not in places]
    for scene in places:
        for word, chosen in (("gripper", True), ("object", False)):
            goals = [goal for goal in here if goal.scene == scene and (goal.thing == GRIPPER) == chosen]
            if goals:
                print(f"{scene}, {word} goals: {covered(places, goals).text()}")
    print(f"all goals in recorded scenes: {covered(places, here).text()}")
    if len(placed) < len(instances):
        print(f"{len(instances) - len(placed)} of {len(instances)} goals have no position, and are left out")
    if absent:
        print(f"not recorded: {', '.join(absent)} ({len(placed) - len(here)} goal positions)")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure = draw(places, here)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    print(out)


def goal_of(instance: Instance) -> Goal | None:
    """The goal position of a manifest's instance; None where success is no place of the gripper or an object."""
    predicate = instance.predicate
    if predicate.joint is not None:
        return None
    return Goal(scene=instance.scene, thing=predicate.object or GRIPPER, place=np.asarray(predicate.target, float))


def recorded_places(sources: Sequence[Path]) -> Places:
    """Every recorded position of the gripper and the objects."""
    if not sources:
        raise ValueError("--data names no recording")
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for episode in ClipDataset(sources, length=2, split="all").episodes:
        things = found.setdefault(episode.scene, {})
        things.setdefault(GRIPPER, []).append(episode.ee_pos)
        for i, name in enumerate(episode.object_names):
            things.setdefault(name, []).append(episode.object_pos[:, i])
    return {
        scene: {thing: np.concatenate(parts) for thing, parts in found[scene].items()} for scene in sorted(found)
    }


def covered(places: Places, goals: Sequence[Goal]) -> Share:
    """Distances from ``goals`` to the nearest recorded position of the same thing; one never recorded is infinitely
    far."""
    trees: dict[tuple[str, str], cKDTree] = {}
    distances = []
    for goal in goals:
        known = places.get(goal.scene, {}).get(goal.thing)
        if known is None:
            distances.append(np.inf)
            continue
        if (goal.scene, goal.thing) not in trees:
            trees[goal.scene, goal.thing] = cKDTree(known)
        distances.append(float(trees[goal.scene, goal.thing].query(goal.place)[0]))
    near = np.asarray(distances)
    return Share(goals=len(goals), covered=tuple(int((near <= radius).sum()) for radius in RADII))


def draw(places: Places, goals: Sequence[Goal]) -> plt.Figure:
    """One row of four pictures for each scene: gripper from above and from the side, objects likewise."""
    figure, rows = plt.subplots(len(places), 4, figsize=(15, 3.4 * len(places)), squeeze=False, layout="constrained")
    for row, (scene, things) in zip(rows, places.items(), strict=True):
        objects = np.concatenate([things[thing] for thing in things if thing != GRIPPER])
        for half, (word, points) in enumerate((("gripper", things[GRIPPER]), ("objects", objects))):
            wanted = [each.place for each in goals if each.scene == scene and (each.thing == GRIPPER) == (half == 0)]
            marks = np.array(wanted).reshape(-1, 3)
            for axes, (across, view) in zip(row[2 * half : 2 * half + 2], ((1, "above"), (2, "the side")), strict=True):
                _panel(axes, points, marks, across)
                axes.set_title(f"{scene}: {word} from {view}, {len(marks)} goals", fontsize=9)
    return figure


def _panel(axes: plt.Axes, points: np.ndarray, marks: np.ndarray, across: int) -> None:
    """Density of ``points`` (n, 3) over x and axis ``across`` in 1 cm cells, ``marks`` (m, 3) over it."""
    both = np.concatenate([points, marks])[:, (0, across)]
    low, high = np.quantile(both, 0.002, axis=0) - 0.03, np.quantile(both, 0.998, axis=0) + 0.03
    if len(marks):
        low = np.minimum(low, marks[:, (0, across)].min(axis=0) - 0.03)
        high = np.maximum(high, marks[:, (0, across)].max(axis=0) + 0.03)
    bins = [np.arange(start, stop + 0.01, 0.01) for start, stop in zip(low, high, strict=True)]
    axes.hist2d(points[:, 0], points[:, across], bins=bins, norm="log", cmap="Blues", cmin=1, vmin=0.3)
    axes.plot(marks[:, 0], marks[:, across], "x", color="crimson", markersize=5)
    axes.set_aspect("equal")
    axes.set_xlabel("x, m", fontsize=8)
    axes.set_ylabel(f"{'xyz'[across]}, m", fontsize=8)
    axes.tick_params(labelsize=7)


if __name__ == "__main__":
    main(coverage)
