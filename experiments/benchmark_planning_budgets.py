"""Success against seconds per plan: the evaluation of ``vp2_eval.py`` under one budget after the other, on the same
goal instances, each in a results folder of its own that goes on where it stopped; and the policies that plan nothing.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from colaworld.envs.whole_file import whole_file
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig, Budget
from colaworld.experiments.episode_log import read_lines
from colaworld.experiments.episode_player import Player, player_of, world_of
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.goal_tasks import GoalTasks
from colaworld.experiments.intervals import wilson
from colaworld.experiments.planning_world import LoadedWorld, usual_goal_models
from colaworld.experiments.vp2_eval import evaluate

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import LogLocator, NullFormatter  # noqa: E402

PLOT = "success_by_seconds.png"


def measure_budgets(
    config: BenchmarkConfig,
    tasks: GoalTasks | None = None,
    get_world: Callable[[EvalConfig], LoadedWorld] = world_of,
    make_player: Callable[[EvalConfig], Player] = player_of,
) -> dict[str, Any]:
    """Play what is not yet in ``--out`` and draw the plot there; ``tasks`` are LIBERO's when not given.

    Raises what ``evaluate`` does.
    """
    opened = libero_tasks(config) if tasks is None else tasks
    settings = {"floor": floor_settings(config)}
    settings |= {each.name: budget_settings(config, each) for each in config.budget_list()}
    try:
        for name, each in settings.items():
            print(f"\nbudgets: {name}", flush=True)
            player = make_player if config.workers > 1 else None
            evaluate(each, opened, lambda each=each: get_world(each), config.out / name, player)
        identity = dict(opened.identity)
    finally:
        if tasks is None:
            opened.close()
    played = {name: config.out / name / "episodes.jsonl" for name in settings}
    wanted = {name: {row: row_of(path, row) for row in settings[name].rows} for name, path in played.items()}
    floors = [{"row": row, **found} for row, found in wanted.pop("floor").items()]
    rows = [{"budget": name, **found["planner"]} for name, found in wanted.items()]
    plot = (config.json.parent if config.json else config.out) / PLOT
    draw(rows, floors, plot)
    return {
        "planner": "cem",
        "horizon": settings[rows[0]["budget"]].horizon,
        "workers": config.workers,
        "tasks": identity,
        "budgets": rows,
        "floors": floors,
        "plot": str(plot),
    }


def libero_tasks(config: BenchmarkConfig) -> GoalTasks:
    """The manifest's."""
    from colaworld.experiments.libero_goal_tasks import LiberoGoalTasks  # slow to import

    return LiberoGoalTasks(config.manifest, max_steps=None)


def budget_settings(config: BenchmarkConfig, budget: Budget) -> EvalConfig:
    """Flags of ``vp2_eval.py`` for one budget."""
    usual = EvalConfig()
    return EvalConfig(
        **shared(config),
        rows=("planner",),
        samples=budget.samples or config.samples or usual.samples,
        iterations=budget.iterations or usual.iterations,
        budget_seconds=budget.seconds,
        horizon=config.horizon or usual.horizon,
        compile=config.engine().compile,
        dtype=config.engine().dtype,
    )


def floor_settings(config: BenchmarkConfig) -> EvalConfig:
    """The same for who plans nothing: a random policy, and the inverse model where there is one."""
    inverse = usual_goal_models(config.run, config.preset) is not None
    return EvalConfig(**shared(config), rows=("inverse", "random") if inverse else ("random",))


def shared(config: BenchmarkConfig) -> dict[str, Any]:
    """Flags of all."""
    names = ("preset", "run", "manifest", "episodes", "device", "workers")
    return {**{name: getattr(config, name) for name in names}, "pictures": False, "inspect": False}


def row_of(path: Path, row: str) -> dict[str, Any]:
    """Of the episodes at ``path``: successes with Wilson's interval, seconds per plan (median and quartiles)."""
    records = [record for record in read_lines(path)[0].values() if record["row"] == row]
    successes = sum(record["success"] for record in records)
    seconds = [each for record in records for each in record["plan_seconds"]]
    quartiles = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist() if seconds else None
    return {
        "successes": successes,
        "episodes": len(records),
        "rate": asdict(wilson(successes, len(records))),
        "plans": len(seconds),
        "seconds_per_plan": dict(zip(("low", "median", "high"), quartiles, strict=True)) if quartiles else None,
    }


def draw(rows: list[dict[str, Any]], floors: list[dict[str, Any]], path: Path) -> None:
    """Write the plot as PNG: bars are Wilson's 95 % and the seconds' quartiles, lines are who plans nothing."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    seconds = [row["seconds_per_plan"] for row in rows]
    axes.errorbar(
        [each["median"] for each in seconds],
        [100 * row["rate"]["estimate"] for row in rows],
        xerr=spread(seconds, "median"),
        yerr=100 * spread([row["rate"] for row in rows], "estimate"),
        fmt="o",
        capsize=3,
        linewidth=1,
        label="CEM",
    )
    for row, each in zip(rows, seconds, strict=True):
        place = (each["median"], 100 * row["rate"]["estimate"])
        axes.annotate(row["budget"], place, xytext=(4, 4), textcoords="offset points", fontsize=7)
    for number, floor in enumerate(floors, start=1):
        style = {"color": f"C{number}", "linestyle": ("--", ":")[number % 2]}
        axes.axhline(100 * floor["rate"]["estimate"], label=f"{floor['row']}, plans nothing", **style)
    axes.set(xscale="log", xlabel="seconds per plan", ylabel="success, %", ylim=(-3, 103))
    axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter=NullFormatter())
    axes.legend(fontsize=8)
    figure.tight_layout()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    plt.close(figure)


def spread(found: list[dict[str, float]], middle: str) -> np.ndarray:
    """Distances ``(2, n)`` from the ``middle`` down to ``low`` and up to ``high``, none below 0."""
    values = [(each[middle] - each["low"], each["high"] - each[middle]) for each in found]
    return np.array(values).clip(0.0).T
