"""Make the frozen goal instances that planning is scored on: ``python experiments/make_manifest.py --sheet goals.png``.

VP2 draws start and goal from scripted trajectories that are not in the training data. Here every instance has a seed of
1,000,000 or more, and the scripted expert that is scored beside the planners finishes it within 12 environment steps.

reach: play for a moment, then the expert moves the gripper 10 to 25 cm; success within 3 cm of where it ended.
push: a scripted push begins; the start is where the fingers stand behind the object, success is the object within 5 cm
of where the expert left it (or came nearest to its aim), at least 10 cm away.
"""

import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as imageio
import numpy as np
from einops import rearrange
from tqdm import tqdm

from colaworld.envs.experts import Push
from colaworld.envs.goals import expert_for
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.manifest import DEFAULT_MANIFEST, FIRST_SEED, FOLDER, Category, Instance, Manifest, Predicate
from colaworld.envs.play import Play, Workspace, draw_push
from colaworld.experiments.cli import main

SCENES = (("libero_goal", 0), ("libero_spatial", 0))
RADIUS = {"reach": 0.03, "push": 0.05}
REACH_DISTANCE = (0.10, 0.25)
PUSH_DISTANCE = (0.10, 0.22)
EXPERT_STEPS = 12
MIN_SHARE = 0.002  # of the picture, some 8 of 64x64 pixels
STILL = 0.01  # metres that bystanders may move


class Candidate(NamedTuple):
    """A start that the expert turned into a goal: states, predicate, steps, the goal's frame and the start's."""

    start: np.ndarray
    goal: np.ndarray
    predicate: Predicate
    expert_steps: int
    goal_frame: np.ndarray
    start_frame: np.ndarray


def make_manifest(
    out: Path = FOLDER / f"{DEFAULT_MANIFEST}.json",
    per_cell: int = 12,
    first_seed: int = FIRST_SEED,
    sheet: Path | None = None,
) -> None:
    """Write a manifest of ``per_cell`` instances for each scene and category.

    Args:
        out: JSON file to write, with its ``.npz`` beside it. A file that exists is frozen and never overwritten.
        per_cell: instances for each of the two scenes and two categories.
        first_seed: the first seed tried; training data uses seeds below 1,000,000.
        sheet: write a picture of all starts (upper rows) and goals (lower rows) here.
    """
    if out.exists() or out.with_suffix(".npz").exists():
        raise ValueError(f"{out} exists, and a manifest is frozen once it is made; choose another --out")
    if per_cell < 1:
        raise ValueError(f"per_cell must be at least 1, got {per_cell}")
    if first_seed < FIRST_SEED:
        raise ValueError(f"first_seed must be at least {FIRST_SEED} (training data lies below), got {first_seed}")
    cells = []
    for suite, task_id in SCENES:
        env = LiberoEnv(suite, task_id)
        for category in RADIUS:
            found = _candidates(env, category, first_seed)
            label = f"{suite} {category}"
            cells.append([(env, category, *next(found)) for _ in tqdm(range(per_cell), desc=label, unit="instance")])
        env.close()
    rows = [row for group in zip(*cells, strict=True) for row in group]
    manifest = _manifest(out.stem, rows)
    _write(manifest, out)
    print(f"{out}: {len(manifest.instances)} instances, sha256 {manifest.sha256}")
    if sheet is not None:
        imageio.imwrite(sheet, _contact_sheet([row[-1] for row in rows]))


def _candidates(env: LiberoEnv, category: Category, first_seed: int) -> Iterator[tuple[int, Candidate]]:
    seed = first_seed
    attempt = {"reach": _reach, "push": _push}[category]
    while True:
        candidate = attempt(env, np.random.default_rng([seed, list(RADIUS).index(category)]))
        if candidate is not None:
            yield seed, candidate
        seed += 1


def _begin(env: LiberoEnv, rng: np.random.Generator) -> tuple[dict[str, Any], Play]:
    env.scene.reset_to_initial(0)
    home = env.ee_pos
    env.scene.reset_to_initial(int(rng.integers(len(env.scene.initial_states))))
    _, info = env.restore_state(env.get_state(), render=False)
    return info, Play("play", home, rng, frame_skip=env.frame_skip)


def _reach(env: LiberoEnv, rng: np.random.Generator) -> Candidate | None:
    info, play = _begin(env, rng)
    for _ in range(rng.integers(3, 13)):
        info = env.advance(play(info))
    low, high = REACH_DISTANCE
    for _ in range(50):
        target = play.workspace.draw(rng)
        if low + 0.01 < np.linalg.norm(target - info["ee_pos"]) < high - 0.01:
            predicate = Predicate(object=None, target=tuple(target), radius=RADIUS["reach"])
            return _finish(env, env.get_state(), predicate, REACH_DISTANCE)
    return None


def _push(env: LiberoEnv, rng: np.random.Generator) -> Candidate | None:
    info, play = _begin(env, rng)
    skill = _promising_push(info, play.workspace, rng)
    if skill is None or not _until_contact(env, skill, info, play.workspace):
        return None
    height = info["objects"][skill.name][2]
    predicate = Predicate(object=skill.name, target=(*skill.target, height), radius=RADIUS["push"])
    return _finish(env, env.get_state(), predicate, PUSH_DISTANCE)


def _promising_push(info: dict[str, Any], workspace: Workspace, rng: np.random.Generator) -> Push | None:
    """A push long enough to count, and not straight away from the camera (+x), where the hand would hide the object."""
    for _ in range(20):
        skill = draw_push(info, workspace, rng)
        if skill is None:
            return None
        offset = skill.target - np.asarray(info["objects"][skill.name])[:2]
        distance = float(np.linalg.norm(offset))
        if PUSH_DISTANCE[0] + 0.02 < distance < PUSH_DISTANCE[1] and offset[0] > -0.3 * distance:
            return skill
    return None


def _until_contact(env: LiberoEnv, skill: Push, info: dict[str, Any], workspace: Workspace) -> bool:
    """Run ``skill`` until its fingers stand behind the object; False when they never do, or leave the workspace."""
    for _ in range(20):
        state = env.get_state()
        action = skill(info)
        if skill.phase == "push":
            env.restore_state(state, render=False)
            return bool((env.ee_pos > workspace.low - 0.02).all())
        if skill.done:
            return False
        info = env.advance(action)
    return False


def _finish(env: LiberoEnv, start: np.ndarray, wish: Predicate, bounds: tuple[float, float]) -> Candidate | None:
    """Let the expert fulfil ``wish``; where it ends is the goal. None unless the instance is sound and visible."""
    before, goal = _run_expert(env, start, wish)
    if goal is None or not _visible(env, wish):
        return None
    _, after = env.restore_state(goal, render=False)
    reached = after["ee_pos"] if wish.object is None else after["objects"][wish.object]
    predicate = Predicate(object=wish.object, target=tuple(float(x) for x in reached), radius=wish.radius)
    moved = {name: np.linalg.norm(after["objects"][name] - before["objects"][name]) for name in before["objects"]}
    still = all(distance < STILL for name, distance in moved.items() if name != wish.object)
    if not still or not bounds[0] <= predicate.distance(before) <= bounds[1]:
        return None
    goal_frame = env.picture()
    start_frame = env.restore_state(start)[0]["agentview"]
    steps = _expert_steps(env, start, predicate)
    if steps is None or not _visible(env, wish, start):
        return None
    return Candidate(start, goal, predicate, steps, goal_frame, start_frame)


def _run_expert(env: LiberoEnv, start: np.ndarray, wish: Predicate) -> tuple[dict[str, Any], np.ndarray | None]:
    """``info`` at ``start``, and the state in which the expert is done, or within 12 steps came nearest to ``wish``.

    A reach has to be done (None otherwise); an object that slipped past its wish still shows where it can be pushed.
    """
    _, before = env.restore_state(start, render=False)
    skill, info = expert_for(wish, gripper=env.scene.gripper_command(start)), before
    nearest, best = start, wish.distance(before)
    for _ in range(EXPERT_STEPS + 1):
        state = env.get_state()
        if wish.distance(info) < best:
            nearest, best = state, wish.distance(info)
        action = skill(info)
        if skill.done:
            return before, state
        info = env.advance(action)
    return before, None if wish.object is None else nearest


def _expert_steps(env: LiberoEnv, start: np.ndarray, predicate: Predicate) -> int | None:
    """Steps that the scored expert needs to success; None for more than 12 or none at all."""
    _, info = env.restore_state(start, render=False)
    skill = expert_for(predicate, gripper=env.scene.gripper_command(start))
    for step in range(EXPERT_STEPS + 1):
        if predicate.distance(info) < predicate.radius:
            return step or None
        info = env.advance(skill(info))
    return None


def _visible(env: LiberoEnv, predicate: Predicate, state: np.ndarray | None = None) -> bool:
    if state is not None:
        env.restore_state(state, render=False)
    names = ["gripper"] if predicate.object is None else ["gripper", predicate.object]
    return all(env.visible_share(name) > MIN_SHARE for name in names)


def _manifest(name: str, rows: list[tuple[LiberoEnv, Category, int, Candidate]]) -> Manifest:
    env = rows[0][0]
    instances = tuple(
        Instance(
            instance=index,
            category=category,
            suite=env.scene.suite,
            task_id=env.scene.task_id,
            seed=seed,
            predicate=candidate.predicate,
            expert_steps=candidate.expert_steps,
        )
        for index, (env, category, seed, candidate) in enumerate(rows)
    )
    return Manifest(
        name=name,
        mujoco=version("mujoco"),
        robosuite=version("robosuite"),
        render_profile=env.render_profile,
        height=env.height,
        width=env.width,
        frame_skip=env.frame_skip,
        instances=instances,
        starts=tuple(row[-1].start for row in rows),
        goals=tuple(row[-1].goal for row in rows),
        goal_frames=np.stack([row[-1].goal_frame for row in rows]),
    )


def _write(manifest: Manifest, out: Path) -> None:
    """Both files under other names first, then in place: a reader never sees half a manifest."""
    out.parent.mkdir(parents=True, exist_ok=True)
    arrays = out.with_suffix(".npz")
    part = out.with_suffix(".part.npz")
    np.savez_compressed(part, **manifest.arrays())
    os.replace(part, arrays)
    text = json.dumps({**manifest.description(), "sha256": manifest.sha256}, indent=1)
    part = out.with_suffix(".json.part")
    part.write_text(text + "\n")
    os.replace(part, out)


def _contact_sheet(candidates: list[Candidate], columns: int = 12) -> np.ndarray:
    """Starts over goals, ``columns`` pairs in a row, doubled in size: uint8 (height, width, 3)."""
    blank = np.zeros_like(candidates[0].goal_frame)
    pairs = [np.concatenate([candidate.start_frame, candidate.goal_frame]) for candidate in candidates]
    pairs += [np.concatenate([blank, blank])] * (-len(pairs) % columns)
    grid = rearrange(np.stack(pairs), "(row column) h w c -> (row h) (column w) c", column=columns)
    return grid.repeat(2, axis=0).repeat(2, axis=1)


if __name__ == "__main__":
    main(make_manifest)
