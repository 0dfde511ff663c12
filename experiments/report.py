"""What a person looks at after an evaluation: picture strips, films, and tables, all from footage and records.

A strip has one column per frame and four rows: the goal, what was executed, what the first plan imagined, and what
each plan imagined for the very next frame. A film shows goal | imagined (one step ahead) | executed side by side.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont

from colaworld.experiments.goal_episode import Footage
from colaworld.experiments.intervals import MCNEMAR, SIGN_FLIPS, exact_mcnemar, sign_flip_test, wilson

BLANK = 40
"""Grey of a place where there is nothing to show."""
MARGIN = 92
"""Pixels left of a strip for the row labels."""
HEADER = 18
"""Pixels above a strip or a film for the labels."""


def strip_rows(footage: Footage) -> dict[str, np.ndarray]:
    """Label -> frames ``(T, height, width, 3)``, T executed frames including the first; grey where nothing was
    imagined.
    """
    count = len(footage.executed)
    blank = np.full_like(footage.goal, BLANK)
    first = min(footage.plans, default=None)
    whole, ahead = [blank] * count, [blank] * count
    for made_on, plan in footage.plans.items():
        if made_on + 1 < count:
            ahead[made_on + 1] = plan.imagined[0]
        if made_on == first:
            for offset, picture in enumerate(plan.imagined, start=made_on + 1):
                if offset < count:
                    whole[offset] = picture
    return {
        "goal": repeat(footage.goal, "height width c -> t height width c", t=count),
        "executed": np.stack(footage.executed),
        "first plan": np.stack(whole),
        "1 step ahead": np.stack(ahead),
    }


def strip(footage: Footage, *, title: str, scale: int = 2) -> np.ndarray:
    """One picture ``(height, width, 3)`` uint8 of an episode, enlarged ``scale`` times."""
    return labelled_grid(strip_rows(footage), title=title, scale=scale)


def labelled_grid(rows: Mapping[str, np.ndarray], *, title: str, scale: int = 2) -> np.ndarray:
    """Rows of frames uint8 ``(T, height, width, 3)`` under each other, with their labels to the left and frame
    numbers above.
    """
    grid = rearrange(np.stack(list(rows.values())), "row t height width c -> (row height) (t width) c")
    count, height, width = next(iter(rows.values())).shape[:3]
    grid = enlarge(grid, scale)
    font = ImageFont.load_default(12)
    across = max(MARGIN + grid.shape[1], 8 + int(font.getlength(title)))
    canvas = Image.new("RGB", (across, 2 * HEADER + grid.shape[0]), "white")
    canvas.paste(Image.fromarray(grid), (MARGIN, 2 * HEADER))
    draw = ImageDraw.Draw(canvas)
    draw.text((4, 2), title, fill="black", font=font)
    for row, label in enumerate(rows):
        draw.text((4, 2 * HEADER + (row + 0.5) * scale * height - 7), label, fill="black", font=font)
    for frame in range(count):
        draw.text((MARGIN + (frame + 0.5) * scale * width - 4, HEADER + 2), str(frame), fill="black", font=font)
    return np.asarray(canvas)


def film(footage: Footage, *, scale: int = 3) -> list[np.ndarray]:
    """Frames uint8 of goal | imagined one step ahead | executed, one for each executed frame; sizes are multiples of
    2.
    """
    rows = strip_rows(footage)
    shown = ("goal", "1 step ahead", "executed")
    frames = []
    for pictures in zip(*(rows[name] for name in shown), strict=True):
        beside = enlarge(rearrange(np.stack(pictures), "row height width c -> height (row width) c"), scale)
        height, width = beside.shape[0] + HEADER, beside.shape[1]
        canvas = Image.new("RGB", (width + width % 2, height + height % 2), "white")
        canvas.paste(Image.fromarray(beside), (0, HEADER))
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
        for column, label in enumerate(("goal", "imagined", "executed")):
            draw.text((column * width / 3 + 4, 2), label, fill="black", font=font)
        frames.append(np.asarray(canvas))
    return frames


def enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    """Each pixel of ``(height, width, 3)`` as ``scale`` by ``scale`` pixels."""
    return repeat(picture, "height width c -> (height a) (width b) c", a=scale, b=scale)


def write_pictures(footage: Footage, folder: Path, name: str, *, title: str, fps: int = 4) -> dict[str, str]:
    """Write ``name.png`` and ``name.mp4`` (at the environment's 4 Hz) into ``folder``; returns their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(folder / f"{name}.png", strip(footage, title=title))
    imageio.mimwrite(folder / f"{name}.mp4", film(footage), fps=fps, codec="libx264", quality=8, macro_block_size=2)
    return {"strip": f"{name}.png", "film": f"{name}.mp4"}


def success_table(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each category (then ``all``) and row: counts of episodes, rate with its Wilson 95 % interval over
    goal instances (whose seeds are averaged first: they share what makes a goal hard), median seconds per plan.
    """
    table = []
    for category, chosen in by_category(records).items():
        for row in dict.fromkeys(record["row"] for record in chosen):
            episodes = [record for record in chosen if record["row"] == row]
            reached = _by_instance((record["instance"], record["success"]) for record in episodes)
            interval = wilson(sum(reached), len(reached))
            plan_seconds = [seconds for record in episodes for seconds in record["plan_seconds"]]
            table.append(
                {
                    "category": category,
                    "row": row,
                    "successes": sum(record["success"] for record in episodes),
                    "episodes": len(episodes),
                    "rate": interval.estimate,
                    "wilson_low": interval.low,
                    "wilson_high": interval.high,
                    "median_start_distance": float(np.median([record["start_distance"] for record in episodes])),
                    "median_best_distance": float(np.median([record["best_distance"] for record in episodes])),
                    "seconds_per_plan": float(np.median(plan_seconds)) if plan_seconds else None,
                }
            )
    return table


def paired_tests(records: Sequence[Mapping[str, Any]], first: str, second: str) -> list[dict[str, Any]]:
    """Rows ``first`` against ``second`` on the episodes both have finished, for each category and ``all``: exact
    McNemar; where instances have several seeds, sign flips of the instances' mean differences. Counts are of episodes.
    """
    tests = []
    for category, chosen in by_category(records).items():
        outcomes = {
            row: {(record["instance"], record["seed"]): record["success"] for record in chosen if record["row"] == row}
            for row in (first, second)
        }
        shared = sorted(outcomes[first].keys() & outcomes[second].keys())
        if shared:
            test = exact_mcnemar([outcomes[first][key] for key in shared], [outcomes[second][key] for key in shared])
            told = {"category": category, "first": first, "second": second, **test.as_dict(), "test": MCNEMAR}
            leads = _by_instance((key[0], outcomes[first][key] - outcomes[second][key]) for key in shared)
            if len(leads) < len(shared):
                told |= {"test": SIGN_FLIPS, "p_value": sign_flip_test(leads)}
            tests.append(told)
    return tests


def _by_instance(values: Iterable[tuple[int, float]]) -> list[float]:
    """Means of (instance, value) over each instance."""
    groups: dict[int, list[float]] = {}
    for instance, value in values:
        groups.setdefault(instance, []).append(value)
    return [sum(group) / len(group) for group in groups.values()]


def by_category(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Records of each category, in order of appearance, and of ``all`` when there is more than one."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["instance"]):
        groups.setdefault(record["category"], []).append(record)
    return {**groups, "all": list(records)} if len(groups) > 1 else groups


def format_results(table: Iterable[Mapping[str, Any]], tests: Iterable[Mapping[str, Any]], planner: str) -> str:
    """The table and the tests as text for a terminal."""
    header = ("category", "row", "successes", "rate", "Wilson 95 %", "closest (cm)", "s/plan")
    lines = [
        (
            entry["category"],
            f"planner ({planner})" if entry["row"] == "planner" else entry["row"],
            f"{entry['successes']}/{entry['episodes']}",
            f"{100 * entry['rate']:.0f} %",
            f"[{100 * entry['wilson_low']:.0f}, {100 * entry['wilson_high']:.0f}] %",
            f"{100 * entry['median_best_distance']:.1f} of {100 * entry['median_start_distance']:.1f}",
            "-" if entry["seconds_per_plan"] is None else f"{entry['seconds_per_plan']:.2f}",
        )
        for entry in table
    ]
    sentences = [
        f"{test['category']}: {test['first']} against {test['second']}, {test.get('test', MCNEMAR)} "
        f"p = {test['p_value']:.3g} "
        f"({test['only_first']} won only by {test['first']}, {test['only_second']} only by {test['second']})"
        for test in tests
    ]
    return "\n".join([*aligned([header, *lines]), *sentences])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with columns of one width and a rule below the first row."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
