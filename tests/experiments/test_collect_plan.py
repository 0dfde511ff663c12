"""Plans of recordings: what ships keeps its promises, and a plan that is wrong is refused with the field's name."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from colaworld.experiments.collect_plan import TRAINING_SEEDS, Job, check_scenes, load_plan

ENTRY = {"suite": "libero_goal", "task_id": 0, "kind": "mixed", "episodes": 2, "steps": 3, "first_seed": 5}
PLAN = {"name": "small", "height": 64, "width": 64, "render_profile": "lite", "entries": [ENTRY]}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**PLAN, **changes}))
    return path


def test_play_v1_is_what_it_says() -> None:
    plan = load_plan("play-v1")
    scenes = plan.scenes()
    jobs = [job for episodes in scenes.values() for job, _ in episodes]
    steps = Counter[str]()
    for job in jobs:
        steps[job.kind] += job.steps
    assert len(scenes) >= 5 and steps.total() >= 60_000
    assert steps["mixed"] == steps["expert"] == steps.total() / 2
    assert len({job.steps for job in jobs}) == 1  # a packed scene needs one length
    assert max(seed for episodes in scenes.values() for _, seed in episodes) < TRAINING_SEEDS
    check_scenes(jobs)


def test_entries_of_one_scene_go_into_one_file_in_their_order(tmp_path: Path) -> None:
    other = {**ENTRY, "task_id": 1}
    later = {**ENTRY, "kind": "push", "first_seed": 3}
    plan = load_plan(written(tmp_path / "p.json", entries=[ENTRY, other, later]))
    found = {scene: [(job.kind, seed) for job, seed in tasks] for scene, tasks in plan.scenes().items()}
    assert found == {
        "libero_goal_0": [("mixed", 5), ("mixed", 6), ("push", 3), ("push", 4)],
        "libero_goal_1": [("mixed", 5), ("mixed", 6)],
    }


def test_a_change_to_one_scene_leaves_what_the_others_are_recorded_as(tmp_path: Path) -> None:
    other = {**ENTRY, "task_id": 1}
    first = load_plan(written(tmp_path / "a.json", entries=[ENTRY, other]))
    second = load_plan(written(tmp_path / "b.json", entries=[ENTRY, {**other, "episodes": 9}]))
    assert first.text("libero_goal_0") == second.text("libero_goal_0")
    assert first.text("libero_goal_1") != second.text("libero_goal_1") and first.text() != second.text()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"entries": []}, "plan small has no entries"),
        ({"name": "a/b"}, "name consists of letters"),
        ({"height": "64"}, r"p.json: field 'height' should be int, got '64'"),
        ({"colour": 1}, r"p.json: unknown field 'colour'"),
        ({"entries": [7]}, r"entry 0 should be a JSON object, got int"),
        ({"entries": [ENTRY, {**ENTRY, "first_seed": 6}]}, "seed 6 of scene libero_goal_0 is planned twice"),
        ({"entries": [{**ENTRY, "kind": "dance"}]}, r"entry 0: kind must be one of mixed, .* got 'dance'"),
        ({"entries": [{**ENTRY, "steps": 0}]}, r"entry 0: steps must be at least 1, got 0"),
        ({"entries": [{**ENTRY, "episodes": 0}]}, r"entry 0: episodes must be at least 1, got 0"),
        ({"entries": [{**ENTRY, "first_seed": 999_999}]}, r"entry 0: seeds 999999 to 1000000 do not lie in"),
        ({"entries": [{**ENTRY, "task_id": True}]}, r"entry 0: field 'task_id' should be int, got True"),
        ({"entries": [{k: v for k, v in ENTRY.items() if k != "suite"}]}, r"entry 0: field 'suite' is missing"),
        ({"render_profile": "oil"}, r"entry 0: .*oil"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_plan(written(tmp_path / "p.json", **changes))


def test_an_unknown_plan_or_one_that_is_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no plan 'play-v0' .*shipped: .*play-v1"):
        load_plan("play-v0")
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(ValueError, match="p.json is not JSON"):
        load_plan(tmp_path / "p.json")
    (tmp_path / "p.json").write_text("[]")
    with pytest.raises(ValueError, match="should be a JSON object, got list"):
        load_plan(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("suite", "task_id", "sentence"),
    [
        ("libero_moon", 0, "unknown suite 'libero_moon'"),
        ("libero_goal", 10, r"unknown task_id 10 .* 0\.\.9"),
        ("libero_90", -1, "unknown task_id -1"),
    ],
)
def test_a_scene_that_libero_lacks_is_refused(suite: str, task_id: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_scenes(
            [Job(suite=suite, task_id=task_id, steps=1, kind="play", height=64, width=64, render_profile="lite")]
        )
