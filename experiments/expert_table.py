"""How often the scripted experts reach their goals from LIBERO's official initial states::

    python experiments/expert_table.py --states 10 --out results/experts

One attempt for each category, task and initial state: the goal is drawn there, the expert has 60 environment steps, the
simulator decides. Prints a table with Wilson intervals; ``episodes.jsonl`` in the results folder holds every attempt,
and the same command goes on where it stopped, by whole scenes.
"""

from concurrent.futures import as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from colaworld.envs.expert_goals import CATEGORIES, EXPERT_STEPS, TASKS, draw_goal, expert_for, succeeded
from colaworld.envs.fingerprint import simulator_fingerprint
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.manifest import Category
from colaworld.envs.play import Workspace
from colaworld.envs.scene import SUITES
from colaworld.experiments.cli import main
from colaworld.experiments.episode_log import EpisodeLog, Key
from colaworld.experiments.intervals import wilson
from colaworld.experiments.report import aligned
from colaworld.experiments.simulator_processes import only_environment, simulator_pool

SEED = 3_000_000


def expert_table(
    out: Path = Path("runs/experts"),
    categories: tuple[Category, ...] = CATEGORIES,
    states: int = 10,
    workers: int = 2,
) -> None:
    """Print how often each category's expert succeeds.

    Args:
        out: results folder; name an old one to go on with it.
        categories: which experts.
        states: initial states of each task, of LIBERO's 50, spread evenly.
        workers: parallel processes.
    """
    if not 1 <= states <= 50 or workers < 1:
        raise ValueError(f"states must be 1 to 50 and workers at least 1, got {states} and {workers}")
    chosen = np.linspace(0, 49, states).round().astype(int).tolist()
    settings = {"seed": SEED, "expert_steps": EXPERT_STEPS, "mujoco": version("mujoco")}
    log = EpisodeLog(out, {category: settings for category in categories})
    wanted = [(category, task, k) for category in categories for task in TASKS[category] for k in chosen]
    todo: dict[tuple[str, int], list[tuple[Category, int]]] = {}
    for category, task, k in wanted:
        if _key(category, task, k) not in log:
            todo.setdefault(task, []).append((category, k))
    with (
        simulator_pool(workers) as pool,
        tqdm(total=len(wanted), initial=len(wanted) - sum(map(len, todo.values())), unit="attempt") as progress,
    ):
        futures = [pool.submit(_attempts, *task, jobs) for task, jobs in todo.items()]
        for future in as_completed(futures):
            for record in future.result():
                log.append(record)
                progress.update()
    print("\n".join(table(log.records({_key(*each) for each in wanted}))))


def _key(category: Category, task: tuple[str, int], init_state_id: int) -> Key:
    """The log's: tasks are numbered over all suites."""
    return category, 1000 * SUITES.index(task[0]) + task[1], init_state_id


def table(attempts: list[dict[str, Any]]) -> list[str]:
    """Lines of the printed table: each category, over all its tasks."""
    rows = [("category", "tasks", "successes", "rate", "Wilson 95 %", "steps, median", "no goal")]
    for category in dict.fromkeys(each["row"] for each in attempts):
        mine = [each for each in attempts if each["row"] == category and each["goal"]]
        won = [each for each in mine if each["success"]]
        interval = wilson(len(won), len(mine))
        tasks = len({(each["suite"], each["task_id"]) for each in mine})
        rows.append(
            (
                category,
                str(tasks),
                f"{len(won)}/{len(mine)}",
                f"{100 * interval.estimate:.0f} %",
                f"[{100 * interval.low:.0f}, {100 * interval.high:.0f}] %",
                f"{np.median([each['steps'] for each in won]):.0f}" if won else "-",
                str(sum(each["row"] == category and not each["goal"] for each in attempts)),
            )
        )
    return aligned(rows)


def _attempts(suite: str, task_id: int, jobs: list[tuple[Category, int]]) -> list[dict[str, Any]]:
    env = only_environment(suite=suite, task_id=task_id)
    simulator = simulator_fingerprint(env)
    return [{**attempt(env, category, k), "simulator": simulator} for category, k in jobs]


def attempt(env: LiberoEnv, category: Category, init_state_id: int) -> dict[str, Any]:
    """One attempt from an official initial state, as a record; ``goal`` is False where the scene offered none."""
    scene = env.scene
    row, instance, seed = _key(category, (scene.suite, scene.task_id), init_state_id)
    record = {"row": row, "instance": instance, "seed": seed, "suite": scene.suite, "task_id": scene.task_id}
    scene.reset_to_initial(init_state_id)
    _, info = env.restore_state(env.get_state(), render=False)
    rng = np.random.default_rng([SEED, init_state_id, CATEGORIES.index(category)])
    predicate = draw_goal(scene, info, category, Workspace.around(scene.home_pos()), rng)
    if predicate is None:
        return {**record, "goal": False, "success": False, "steps": 0}
    expert, steps = expert_for(scene, category, predicate), 0
    while steps < EXPERT_STEPS:
        action = expert(info)
        if expert.done:
            break
        info = env.advance(action)
        steps += 1
    return {
        **record,
        "goal": True,
        "subject": predicate.object or predicate.joint or "gripper",
        "success": succeeded(scene, predicate, info),
        "steps": steps,
        "distance": predicate.distance(info),
    }


if __name__ == "__main__":
    main(expert_table)
