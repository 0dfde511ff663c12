"""The targets of planning by name, and what a run of ``benchmark_planning.py`` says of each."""

from collections.abc import Mapping
from typing import Any

ENGINE_TIMES = 10.0
"""How many times faster than naive everything together is to be, in float32."""
PLANS = (
    {"preset": "tiny", "size": (64, 2, 6), "seconds": 2.0, "on": "2 CPU cores"},
    {"preset": "small", "size": (256, 3, 8), "seconds": 0.25, "on": "one H100"},
)
"""A preset's CEM plan (samples, iterations, horizon), and what it may take where."""

MARGIN = 0.1
"""How far below 1 the interval of "no slower" may reach: where it reaches farther, nothing is told."""


def targets(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the parts measured in ``results``: each target, whether it was met (None: that is not told), the numbers."""
    return [engine_target(results), *(plan_target(results, plan) for plan in PLANS), *overhead_targets(results)]


def engine_target(results: Mapping[str, Any]) -> dict[str, Any]:
    """At least ten times together, same sampling steps and guidance on both sides."""
    told = {"target": f"engine: {ENGINE_TIMES:g} times as fast as naive, same plan, float32"}
    if "engine" not in results:
        return {**told, "met": None, "measured": "part engine was not asked for"}
    found = results["engine"]["together"]
    measured = f"{found['estimate']:.3g} times [{found['low']:.3g}, {found['high']:.3g}] ({found['rung']})"
    return {**told, "met": reaches(found, ENGINE_TIMES), "measured": measured}


def plan_target(results: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of a plan; measured only where preset, size and device are the target's."""
    size, limit = " x ".join(map(str, plan["size"])), plan["seconds"]
    told = {"target": f"{plan['preset']}, {size} on {plan['on']}: under {limit:g} s"}
    why = unlike(results, plan)
    if why:
        return {**told, "met": None, "measured": why}
    rows = results["breakdown"]["variants"]
    measured = "; ".join(f"{row['variant']} {row['seconds']:.3g} s" for row in rows)
    # Pixels are what evaluations compare: latents alone do not meet it.
    best = min((row for row in rows if row["variant"].startswith("pixel")), key=lambda row: row["seconds"])
    slower = reaches(best["interval"], limit)
    return {**told, "met": None if slower is None else not slower, "measured": measured}


def unlike(results: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Why what was measured is not the target's plan; empty where it is."""
    if "breakdown" not in results:
        return "part breakdown was not asked for"
    found, machine, config = results["breakdown"], results["machine"], results["config"]
    if config["preset"] != plan["preset"] or config["run"] is not None:
        return f"this run is of {config['run'] or config['preset']}"
    if (found["samples"], found["iterations"], found["horizon"]) != plan["size"]:
        return "this run's plan has another size"
    if config["clock"] != "wall":
        return "this run counts seconds of the processor"
    if "H100" in plan["on"]:
        return "" if "H100" in machine["device"] else f"this machine has no H100: {machine['device']}"
    if config["device"] != "cpu" or machine["threads"] > 2:
        return f"this run is on {config['device']} with {machine['threads']} threads: give --threads 2"
    return ""


def overhead_targets(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """No slower than the rivals and no worse in the cost reached."""
    told = "planners: no slower and no worse than"
    pairs = results.get("overhead", {}).get("pairs", [])
    if not pairs:
        why = "give --rivals" if "overhead" in results else "part overhead was not asked for"
        return [{"target": f"{told} stable-worldmodel, pytorch-mppi", "met": None, "measured": why}]
    return [
        {
            "target": f"{told} {pair['rival']} ({pair['ours']}), within {MARGIN:.0%}",
            "met": both(no_less(pair["times_faster"]), no_less(pair["cost_over_ours"])),
            "measured": f"{pair['times_faster']['estimate']:.3g} times as fast, their cost "
            f"{pair['cost_over_ours']['estimate']:.3g} of ours",
        }
        for pair in pairs
    ]


def reaches(interval: Mapping[str, float], limit: float) -> bool | None:
    """Whether an interval lies above ``limit``; None where it holds it."""
    return True if interval["low"] >= limit else False if interval["high"] < limit else None


def no_less(ratio: Mapping[str, float]) -> bool | None:
    """Whether a ratio is 1 or more, or too near to it to matter; None where its interval is too wide to tell."""
    if ratio["high"] < 1:
        return False
    return True if ratio["low"] >= 1 - MARGIN else None


def both(*answers: bool | None) -> bool | None:
    """False if one is, else None if one is."""
    return False if False in answers else None if None in answers else True
