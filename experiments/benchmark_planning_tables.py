"""What ``benchmark_planning.py`` prints: a table for each part, and the targets by name."""

from collections.abc import Mapping
from typing import Any

from colaworld.experiments.benchmark_planning_breakdown import PARTS
from colaworld.experiments.benchmark_planning_overhead import RECIPE
from colaworld.experiments.report import aligned


def engine_table(found: Mapping[str, Any]) -> list[str]:
    """Rungs, what they come to together, fewer steps."""
    sampler = found["sampler"]
    lines = [
        f"ENGINE: one CEM plan, {_size(found)}, {sampler['steps']} sampling steps, guidance "
        f"{sampler['guidance']:g}; the same on every rung",
        "",
    ]
    header = ("rung", "s/plan", "times naive", "adds", "times that", "latents apart", "actions apart")
    rows = [
        (
            row["rung"],
            _seconds(row["seconds"]),
            _interval(row["over_naive"]),
            f"to {row['before']}" if "before" in row else "-",
            _interval(row["over_before"]) if "before" in row else "-",
            f"{row['latents_apart']:.0e}",
            f"{row['actions_apart']:.0e}",
        )
        for row in found["rungs"]
    ]
    together, reduced = found["together"], found["together_with_bfloat16"]
    lines += [*aligned([header, *rows]), ""]
    lines.append(f"together, float32 ({together['rung']}): {_interval(together)} times as fast as naive")
    if reduced["rung"] != together["rung"]:
        lines.append(f"together, any type ({reduced['rung']}): {_interval(reduced)} times")
    lines.append(f"against all candidates at once without a cache: {_interval(found['over_batch_no_cache'])} times")
    fewer = found["fewer_steps"]
    error = f"error / copying, no guidance ({fewer['clips']} clips)" if fewer["clips"] else "error (random weights)"
    rows = [
        (
            str(row["steps"]),
            _seconds(row["seconds"]),
            _interval(row["over_most"]),
            _interval(row["error_over_copying"]) if row["error_over_copying"] else "-",
        )
        for row in fewer["rows"]
    ]
    header = ("steps", "s/plan", "times", error)
    return [*lines, "", f"fewer sampling steps ({fewer['rung']}):", *aligned([header, *rows])]


def breakdown_table(found: Mapping[str, Any]) -> list[str]:
    """Seconds of every part of every variant, and the floor."""
    lines = [
        f"BREAKDOWN: one CEM plan, {_size(found)}, 1 sampling step, no guidance, {found['engine']['dtype']}; the "
        f"device multiplies at {found['matmul_gflops']:.0f} GFLOP/s",
        "",
    ]
    header = ("cost, code", "s/plan", *PARTS, "GFLOP", "floor, s", "times floor")
    rows = [
        (
            row["variant"],
            _interval(row["interval"]),
            *(_seconds(row["parts"][part]) for part in PARTS),
            f"{sum(row['operations'].values()) / 1e9:.3g}",
            _seconds(row["floor_seconds"]),
            f"{row['times_floor']:.2g}",
        )
        for row in found["variants"]
    ]
    return [*lines, *aligned([header, *rows])]


def overhead_table(found: Mapping[str, Any]) -> list[str]:
    """Planners, and pairs with the rivals."""
    lines = [f"OVERHEAD: plans in a linear world, {_size(found)}, {found['elites']} elites", ""]
    rows = [
        (row["planner"], f"{1000 * row['seconds']:.2f}", _interval(row["cost"])) for row in found["planners"]
    ]
    lines += aligned([("planner", "ms/plan", "cost reached"), *rows])
    if not found["rivals"]:
        return [*lines, "", RECIPE]
    pairs = [
        (pair["ours"], pair["rival"], _interval(pair["times_faster"]), _interval(pair["cost_over_ours"]), verdict(pair))
        for pair in found["pairs"]
    ]
    header = ("ours", "theirs", "their seconds / ours", "their cost / ours", "ours is")
    versions = ", ".join(f"{package} {version}" for package, version in found["rivals"].items())
    return [*lines, "", *aligned([header, *pairs]), f"theirs: {versions}"]


def verdict(pair: Mapping[str, Any]) -> str:
    """Faster or slower, better or worse, where the interval says so."""
    words = []
    for name, more, less in (("times_faster", "faster", "slower"), ("cost_over_ours", "better", "worse")):
        low, high = pair[name]["low"], pair[name]["high"]
        words.append(more if low > 1 else less if high < 1 else f"neither {more} nor {less}")
    return ", ".join(words)


def budgets_table(found: Mapping[str, Any]) -> list[str]:
    """Budgets and floors."""
    lines = [f"BUDGETS: CEM, horizon {found['horizon']}, {found['workers']} worker(s); plot: {found['plot']}", ""]
    rows = [(row["budget"], *_played(row)) for row in found["budgets"]]
    rows += [(row["row"], *_played(row)) for row in found["floors"]]
    header = ("budget", "successes", "rate", "Wilson 95 %", "s/plan, median", "quartiles")
    return [*lines, *aligned([header, *rows])]


TABLES = {
    "engine": engine_table,
    "breakdown": breakdown_table,
    "overhead": overhead_table,
    "budgets": budgets_table,
}


def target_lines(targets: list[dict[str, Any]]) -> list[str]:
    """Each target with what was measured."""
    return ["TARGETS", *aligned([("target", "result", "measured"), *map(_target, targets)])]


def _target(target: Mapping[str, Any]) -> tuple[str, str, str]:
    met = target["met"]
    return target["target"], "not told" if met is None else "met" if met else "MISSED", target["measured"]


def _played(row: Mapping[str, Any]) -> tuple[str, ...]:
    rate, seconds = row["rate"], row["seconds_per_plan"]
    return (
        f"{row['successes']}/{row['episodes']}",
        f"{100 * rate['estimate']:.0f} %",
        f"[{100 * rate['low']:.0f}, {100 * rate['high']:.0f}] %",
        "-" if seconds is None else _seconds(seconds["median"]),
        "-" if seconds is None else f"{_seconds(seconds['low'])} to {_seconds(seconds['high'])}",
    )


def _size(found: Mapping[str, Any]) -> str:
    return f"{found['samples']} samples x {found['iterations']} iterations x horizon {found['horizon']}"


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value >= 0.001 else f"{value:.4f}"


def _interval(interval: Mapping[str, float]) -> str:
    return "{estimate:.3g} [{low:.3g}, {high:.3g}]".format(**interval)
