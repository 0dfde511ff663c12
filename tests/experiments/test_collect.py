"""Recording a plan in the real simulator: Ray or not, killed or not, the same bytes; and what is wrong is refused
before anything is written."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from colaworld.envs.demos import ClipDataset
from colaworld.envs.libero import LiberoEnv
from colaworld.envs.recording import header_of, write_recording
from colaworld.experiments import collect_episode
from colaworld.experiments.collect import PLAN_FILE, collect, expert_account, record_plan, verify_folder
from colaworld.experiments.collect_episode import record_episode
from colaworld.experiments.collect_plan import Plan, load_plan
from colaworld.experiments.collect_sums import SUMS

SCENE = "libero_goal_0.hdf5"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two kinds in one scene, two episodes of two steps each."""
    shared = {"suite": "libero_goal", "task_id": 0, "episodes": 2, "steps": 2}
    entries = [{**shared, "kind": "play", "first_seed": 50}, {**shared, "kind": "random", "first_seed": 67}]
    path = tmp_path / "pair.json"
    path.write_text(
        json.dumps({"name": "pair", "height": 64, "width": 64, "render_profile": "lite", "entries": entries})
    )
    return load_plan(path)


@pytest.fixture
def at_hand(goal_env: LiberoEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording in this process uses the simulator that the tests share."""
    monkeypatch.setattr(collect_episode, "only_environment", lambda **scene: goal_env)


def test_two_ray_workers_record_the_same_bytes_as_this_process(
    plan: Plan, at_hand: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    record_plan(plan, here, workers=1)
    said = capsys.readouterr().out
    assert re.search(r"8 model steps in \d+ s: [\d.]+ steps/s on 1 processes", said)
    record_plan(plan, there, workers=2, ray_address="local")
    said = capsys.readouterr().out
    assert "on 2 processes" in said and "4 episodes, 8 model steps, 1 scenes" in said
    for name in (SCENE, SUMS, PLAN_FILE):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert sorted(path.name for path in there.iterdir()) == sorted([SCENE, SUMS, PLAN_FILE])
    episodes = ClipDataset([there / SCENE], length=3, split="all").episodes
    assert [(each.seed, each.kind, each.split) for each in episodes] == [
        (50, "play", "train"),
        (51, "play", "train"),
        (67, "random", "validation"),
        (68, "random", "train"),
    ]
    verify_folder(there, here / SUMS)
    assert "4 exact" in capsys.readouterr().out


def test_killed_and_run_again_it_records_what_is_missing(
    plan: Plan, at_hand: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    record_plan(plan, whole, workers=1)
    original, seeds = collect_episode.record_episode, []

    def dying(env: LiberoEnv, *, seed: int, steps: int, kind: str) -> object:
        seeds.append(seed)
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return original(env, seed=seed, steps=steps, kind=kind)

    monkeypatch.setattr(collect_episode, "record_episode", dying)
    with pytest.raises(KeyboardInterrupt):
        record_plan(plan, killed, workers=1)
    assert not (killed / SCENE).exists() and not (killed / SUMS).exists()
    record_plan(plan, killed, workers=1)
    assert seeds == [50, 51, 67, 67, 68]
    assert (killed / SCENE).read_bytes() == (whole / SCENE).read_bytes()
    record_plan(plan, killed, workers=1)  # nothing left to do
    assert len(seeds) == 5


def part_of(plan: Plan, out: Path) -> Path:
    """One finished episode that waits beside a file that is not there yet."""
    record_plan(plan, out, workers=1)
    job, seed = plan.scenes()["libero_goal_0"][1]
    part = job.part(out / SCENE, seed)
    collect_one = collect_episode.recorded(job, seed)
    part.parent.mkdir(parents=True)
    part.write_bytes(collect_one.data)
    (out / SCENE).unlink()
    return part


def test_a_spoilt_part_is_named_and_nothing_is_recorded_over_it(plan: Plan, at_hand: None, tmp_path: Path) -> None:
    part = part_of(plan, tmp_path / "out")
    whole = part.read_bytes()

    def refused(sentence: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=f"{part.name}.*{sentence}.*; remove this finished episode"):
            record_plan(plan, tmp_path / "out", workers=1)
        assert sorted(tmp_path.rglob("*")) == before

    part.write_bytes(whole[: len(whole) // 2])
    refused("cut short")
    for name, value, sentence in (("layout_version", 9, "'layout_version' is .*9"), ("task_id", 3, "libero_goal_3")):
        part.write_bytes(whole)
        with h5py.File(part, "a") as file:
            file["data"].attrs[name] = value
        refused(sentence)
    part.write_bytes(whole)
    with h5py.File(part, "a") as file:
        actions = file["data/demo_0/actions"][:-1]
        del file["data/demo_0/actions"]
        file["data/demo_0/actions"] = actions
    refused("'actions' has 1 entries for 3 frames, not 2")
    part.write_bytes(whole)
    record_plan(plan, tmp_path / "out", workers=1)
    assert not part.exists() and (tmp_path / "out" / SCENE).exists()


def test_what_is_wrong_is_refused_before_anything_is_written(
    plan: Plan, at_hand: None, tmp_path: Path, fake_recording: Any
) -> None:
    out = tmp_path / "out"
    record_plan(plan, out, workers=1)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match="out was recorded with another plan than play-v1 is now"):
        record_plan(load_plan("play-v1"), out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    fake_recording(tmp_path / "foreign" / SCENE, [1])
    with pytest.raises(ValueError, match="was recorded as no plan"):
        record_plan(plan, tmp_path / "foreign")
    with pytest.raises(ValueError, match="is a file; a plan is recorded into a folder"):
        record_plan(plan, out / SUMS)
    with pytest.raises(ValueError, match="no Ray cluster answers"):
        record_plan(plan, tmp_path / "new", ray_address="127.0.0.1:9")
    described = json.loads((tmp_path / "pair.json").read_text())
    described["entries"][1]["task_id"] = 77
    (tmp_path / "pair.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="unknown task_id 77"):
        collect(tmp_path / "new", plan=str(tmp_path / "pair.json"))
    assert not (tmp_path / "new").exists()


def test_experts_go_on_from_where_the_prelude_leads(goal_env: LiberoEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting:
        """Stands for the experts: it sees the environment as it is when its turn comes, and draws from the episode's
        own generator."""

        kind = "expert"

        def __init__(self, env: LiberoEnv, rng: np.random.Generator) -> None:
            self.start, self.rng, self.frame_skip = env.ee_pos, rng, env.frame_skip
            self.outcomes = [("reach", True)]

        def __call__(self, info: Mapping[str, Any]) -> np.ndarray:
            chunk = np.zeros((self.frame_skip, 7), np.float32)
            chunk[:, 2] = self.rng.integers(0, 20) / 64
            return chunk

    monkeypatch.setattr(collect_episode, "ExpertPlay", Waiting)
    episodes = [record_episode(goal_env, seed=seed, steps=2, kind="expert") for seed in (3, 4, 3)]
    assert {episode.kind for episode in episodes} == {"expert"}
    np.testing.assert_array_equal(episodes[0].states, episodes[2].states)
    assert not np.array_equal(episodes[0].states[0], episodes[1].states[0])


def test_episodes_of_failing_experts_are_dropped_and_counted(goal_env: LiberoEnv, monkeypatch, tmp_path: Path) -> None:
    drawn: list[float] = []

    class Failing:
        """Stands for experts that miss more than they hit at first."""

        kind = "expert"

        def __init__(self, env: LiberoEnv, rng: np.random.Generator) -> None:
            drawn.append(rng.random())
            self.outcomes = [("lift", len(drawn) > 2), ("push", False)]

        def __call__(self, info: Mapping[str, Any]) -> np.ndarray:
            return np.zeros((5, 7), np.float32)

    monkeypatch.setattr(collect_episode, "ExpertPlay", Failing)
    episode = record_episode(goal_env, seed=3, steps=1, kind="expert")
    assert (episode.dropped, episode.goals) == (2, (("lift", True), ("push", False)))
    assert len(set(drawn)) == 3, "every attempt draws anew"
    write_recording(tmp_path / "one.hdf5", header_of(goal_env), [episode])
    assert expert_account([tmp_path / "one.hdf5"]) == (
        "experts: 1 of 2 goals reached in 1 episodes, 2 episodes with more misses than hits dropped, "
        "0 kept because no try was better"
    )
    monkeypatch.setattr(collect_episode, "sound", lambda goals: False)
    kept = record_episode(goal_env, seed=3, steps=1, kind="expert")
    assert kept.dropped == collect_episode.EXPERT_TRIES - 1, "the last try is kept"
