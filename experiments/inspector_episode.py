"""What the plan inspector keeps of an episode: every frame in one picture, and what was planned at which step beside
it.

``pack`` turns an episode's footage into values (a dictionary of plain JSON and the bytes of a lossy WebP), so that a
process that plays can send them to the one that writes; ``save`` puts them into a results folder, from where a page
can be made at any time.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from einops import rearrange
from PIL import Image

from colaworld.envs.whole_file import whole_file
from colaworld.planning.search import IterationRecord

FOLDER = "episodes"
"""Where, inside a results folder."""
COLUMNS = 16
"""Frames side by side in the picture of all frames."""
QUALITY = 90
"""Of the lossy picture, for people to look at; errors are measured before it is made."""


class Planned(Protocol):
    """One plan: its imagined frames uint8 ``(H, height, width, 3)`` follow the frame that it was made on. ``actions (H,
    A)`` as the environment takes them and ``codes (H, tokens)`` are None where the plan has none.
    """

    seconds: float
    cost: float
    rejected: int
    imagined: np.ndarray
    history: Sequence[IterationRecord]
    actions: np.ndarray | None
    codes: np.ndarray | None


class Seen(Protocol):
    """An episode's pictures, uint8 ``(height, width, 3)`` each: ``executed[k]`` is frame k, ``distances[k]`` how far
    (metres) it is from the goal, ``plans[k]`` the plan made on it.
    """

    goal: np.ndarray
    executed: Sequence[np.ndarray]
    distances: Sequence[float]
    plans: Mapping[int, Planned]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """``detail`` is plain JSON in which frames are numbers: places in ``sprite``, a WebP with the frames row by row."""

    detail: dict[str, Any]
    sprite: bytes


def pack(seen: Seen, *, quality: int = QUALITY) -> Packed:
    """All that a page shows of ``seen``, which may still be going on. Raises ValueError for frames of several sizes."""
    imagined = [frame for plan in seen.plans.values() for frame in plan.imagined]
    shapes = {frame.shape for frame in (seen.goal, *seen.executed, *imagined)}
    if len(shapes) > 1:
        raise ValueError(f"the frames of an episode must be of one size, got {sorted(shapes)}")
    frames: list[np.ndarray] = []
    goal = keep(frames, [seen.goal])[0]
    executed = keep(frames, seen.executed)
    plans = [
        {"step": step, "imagined": keep(frames, plan.imagined), **plan_detail(plan), **errors(step, plan, seen)}
        for step, plan in sorted(seen.plans.items())
    ]
    height, width = seen.goal.shape[:2]
    detail = {
        "size": [height, width],
        "columns": COLUMNS,
        "rows": math.ceil(len(frames) / COLUMNS),
        "goal": goal,
        "executed": executed,
        "distances": [number(distance) for distance in seen.distances],
        "plans": plans,
    }
    return Packed(detail=detail, sprite=webp(sheet(frames), quality))


def keep(frames: list[np.ndarray], more: Sequence[np.ndarray] | np.ndarray) -> list[int]:
    """Append ``more`` to ``frames``; returns their places."""
    first = len(frames)
    frames.extend(more)
    return list(range(first, len(frames)))


def plan_detail(plan: Planned) -> dict[str, Any]:
    """Numbers of one plan; an infinite cost becomes null."""
    iterations = [
        {
            "best": number(record.best_cost),
            "mean": number(record.mean_cost),
            "elite": number(record.elite_cost),
            "std": number(record.std),
            "elite_spread": number(record.elite_spread),
            "rejected": record.rejected,
        }
        for record in plan.history
    ]
    return {
        "seconds": number(plan.seconds),
        "cost": number(plan.cost),
        "rejected": plan.rejected,
        "iterations": iterations,
        "actions": None if plan.actions is None else [[number(value) for value in row] for row in plan.actions],
        "codes": None if plan.codes is None else np.asarray(plan.codes).astype(int).tolist(),
    }


def errors(step: int, plan: Planned, seen: Seen) -> dict[str, list[float]]:
    """Of each imagined frame that really followed, its root mean squared difference from what happened, pixels in [0,
    1]; ``still`` is the same for a world in which nothing moves.
    """
    followed = seen.executed[step + 1 : step + 1 + len(plan.imagined)]
    return {
        "error": [difference(imagined, real) for imagined, real in zip(plan.imagined, followed, strict=False)],
        "still": [difference(seen.executed[step], real) for real in followed],
    }


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean squared, of uint8 pictures as numbers in [0, 1]."""
    return round(float(np.sqrt(np.square((first.astype(np.float32) - second) / 255).mean())), 5)


def number(value: float) -> float | None:
    """Six digits of it; None for what JSON has no number for."""
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None


def sheet(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Frames uint8 ``(height, width, 3)`` row by row in one picture, the last row filled with black."""
    missing = [np.zeros_like(frames[0])] * (-len(frames) % COLUMNS)
    return rearrange(np.stack([*frames, *missing]), "(r c) h w rgb -> (r h) (c w) rgb", c=COLUMNS)


def webp(picture: np.ndarray, quality: int) -> bytes:
    """uint8 ``(height, width, 3)`` as a lossy WebP."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="webp", quality=quality)
    return buffer.getvalue()


def episode_name(record: Mapping[str, Any]) -> str:
    """What an episode's files and its place in a page's address are called."""
    return f"{record['row']}_{record['instance']:03d}_seed{record['seed']}"


def save(out: Path, record: Mapping[str, Any], packed: Packed) -> None:
    """Write the episode of ``record`` into the results folder ``out``; the JSON, which comes last, says that both are
    whole.
    """
    path = out / FOLDER / f"{episode_name(record)}.webp"
    with whole_file(path) as partial:
        partial.write_bytes(packed.sprite)
    with whole_file(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(packed.detail, allow_nan=False), encoding="utf-8")


def load(out: Path, name: str) -> Packed | None:
    """The episode called ``name`` of the results folder ``out``; None when it was not kept. Raises ValueError for
    damaged JSON.
    """
    path = out / FOLDER / f"{name}.json"
    if not path.exists() or not path.with_suffix(".webp").exists():
        return None
    try:
        detail = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to leave its pictures out") from error
    return Packed(detail=detail, sprite=path.with_suffix(".webp").read_bytes())


def stored_bytes(out: Path, name: str) -> int | None:
    """What ``name`` takes in a page (base64 is a third longer), without reading it; None when it was not kept."""
    path = out / FOLDER / f"{name}.json"
    if not path.exists() or not path.with_suffix(".webp").exists():
        return None
    return path.stat().st_size + 4 * math.ceil(path.with_suffix(".webp").stat().st_size / 3)
