"""How fast planning is, part by part, in ratios from one run::

    python experiments/benchmark_planning.py --threads 2 --json planning.json
    python experiments/benchmark_planning.py --parts engine --samples 16 --repetitions 3        # a quick look
    python experiments/benchmark_planning.py --parts overhead --rivals rivals/bin/python --threads 1
    python experiments/benchmark_planning.py --parts budgets --episodes 12 --workers 2 --out runs/budgets   # resumable
    python experiments/benchmark_planning.py --parts engine breakdown --preset small --device cuda

Sides of a comparison take turns, so that whatever else the machine does falls on all of them; ratios are geometric
means over repetitions with Student's 95 % intervals.
"""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from colaworld.experiments import cli
from colaworld.experiments.benchmark_planning_breakdown import measure_breakdown
from colaworld.experiments.benchmark_planning_budgets import measure_budgets
from colaworld.experiments.benchmark_planning_engine import measure_engine
from colaworld.experiments.benchmark_planning_overhead import measure_overhead
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig, machine
from colaworld.experiments.benchmark_planning_tables import TABLES, target_lines
from colaworld.experiments.benchmark_planning_targets import targets
from colaworld.experiments.benchmark_planning_world import scene
from colaworld.experiments.episode_log import write_json
from colaworld.experiments.provenance import git_revision, versions


def benchmark_planning(config: Annotated[BenchmarkConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Measure the imagination engine, the planners beside other people's, success by seconds, and where time goes."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    results = about(config)
    measured: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": lambda: measure_overhead(config),
        "budgets": lambda: measure_budgets(config),
    }
    if {"engine", "breakdown"} & set(config.parts):
        place = scene(config)
        results["weights"] = {"name": place.weights, "sha256": place.checkpoint}
        measured |= {
            "engine": lambda: measure_engine(config, place),
            "breakdown": lambda: measure_breakdown(config, place),
        }
    print(f"{results['machine']['device']}, {results['machine']['threads']} threads of {results['machine']['cores']}")
    for part in config.parts:
        results[part] = measured[part]()
        results["finished"] = datetime.now().astimezone().isoformat(timespec="seconds")
        results["targets"] = targets(results)
        if config.json:
            write_json(config.json, results)
        print("\n" + "\n".join(TABLES[part](results[part])), flush=True)
    print("\n" + "\n".join(target_lines(results["targets"])))
    if config.json:
        print(f"\nnumbers: {config.json}")


def about(config: BenchmarkConfig) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "config": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()},
        "machine": machine(config),
        "versions": versions(),
        "git_revision": git_revision(),
    }


if __name__ == "__main__":
    cli.main(benchmark_planning)
