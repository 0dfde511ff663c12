"""The shipped goal instances and their environment: sound starts, reachable goals, and a manifest that stays frozen."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from colaworld.envs import manifest as manifests
from colaworld.envs.goals import LiberoGoalReachingEnv
from colaworld.envs.manifest import (
    DEFAULT_MANIFEST,
    DEVELOPMENT_MANIFESTS,
    FIRST_SEED,
    FOLDER,
    check_development,
    load_manifest,
)
from colaworld.envs.starter import read_starter, starter_path


@pytest.fixture()
def copied(tmp_path: Path) -> Path:
    """The shipped manifest where a test may spoil it."""
    for suffix in (".json", ".npz"):
        shutil.copy(FOLDER / f"{DEFAULT_MANIFEST}{suffix}", tmp_path)
    return tmp_path / f"{DEFAULT_MANIFEST}.json"


def spoil(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_version_0_is_reach_and_push_in_two_scenes() -> None:
    manifest = load_manifest("libero_goals_v0")
    instances = manifest.instances
    assert Counter(instance.category for instance in instances) >= Counter(reach=20, push=20)
    first = instances[:12]
    assert Counter(instance.category for instance in first) == Counter(reach=6, push=6)
    assert len({(instance.scene, instance.category) for instance in first}) == 4
    assert [instance.instance for instance in instances] == list(range(len(instances)))
    assert min(instance.seed for instance in instances) >= FIRST_SEED
    assert all(1 <= instance.expert_steps <= 12 for instance in instances)
    radii = {(instance.category, instance.predicate.radius) for instance in instances}
    assert radii == {("reach", 0.03), ("push", 0.05)}
    assert all((instance.predicate.object is None) == (instance.category == "reach") for instance in instances)
    size = sum((FOLDER / f"libero_goals_v0{suffix}").stat().st_size for suffix in (".json", ".npz"))
    assert size < 1 << 20


FROZEN = {
    "libero_goals_dev_v1": "9e4a3e99eda4ae1059430bd1320f174225c87218dad1086f949dbafb95891028",
    "libero_goals_v0": "f7516a2303a18726736a6d074cb881649505218e794d22e7022edb22a5946ad3",
    "libero_goals_v1": "43f7451511fcd2b63f582a943bd7c621ae23e901f7f802a6ce49094be82f1815",
    "libero_place_v1": "97df1324448920d1795cd63574bfc138654dfd18a0f43a5ec252114bed98c2f5",
}


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.json")))
def test_a_shipped_manifest_never_changes(name: str) -> None:
    """Results are told apart by these hashes: a changed goal belongs into a manifest of another name."""
    assert load_manifest(name).sha256 == FROZEN[name]


def test_version_1_is_wide() -> None:
    manifest = load_manifest("libero_goals_v1")
    instances = manifest.instances
    counts = Counter(instance.category for instance in instances)
    assert len(counts) == 6 and min(counts.values()) >= 25
    assert len({instance.scene for instance in instances}) >= 5 and len({instance.suite for instance in instances}) >= 3
    assert all(len({each.scene for each in instances if each.category == category}) >= 3 for category in counts)
    assert {instance.category for instance in instances[:6]} == set(counts)
    assert min(instance.seed for instance in instances) >= FIRST_SEED
    assert all(1 <= instance.expert_steps <= 12 for instance in instances)
    own = {"place", "open_drawer", "close_drawer"}
    assert all(bool(instance.predicate.conditions) == (instance.category in own) for instance in instances)
    assert len({start.tobytes() for start in manifest.starts}) == len(instances)
    assert manifest.yardstick["samples"] == 32 and manifest.fingerprint["libero_goal_0"]["drift_mm"] < 0.1
    assert not (manifest.goal_frames == manifest.goal_frames[:1]).all(axis=(1, 2, 3))[1:].any()


def test_the_development_manifest_shares_nothing_with_training_or_evaluation() -> None:
    manifest = load_manifest("libero_goals_dev_v1")
    counts = Counter((instance.category, instance.scene) for instance in manifest.instances)
    scenes = ("libero_goal_0", "libero_spatial_0")
    assert counts == {(category, scene): 4 for category in ("reach", "push") for scene in scenes}
    assert [instance.category for instance in manifest.instances[:4]] == ["reach", "push"] * 2
    seeds = {instance.seed for instance in manifest.instances}
    trained = read_starter(starter_path())
    assert {scene.header.scene for scene in trained} == set(scenes)
    assert seeds.isdisjoint({int(seed) for scene in trained for seed in scene.seeds})
    own = {state.tobytes() for state in (*manifest.starts, *manifest.goals)}
    assert len(own) == 2 * len(manifest.instances)
    for path in FOLDER.glob("*.json"):
        if path.stem not in DEVELOPMENT_MANIFESTS:
            evaluated = load_manifest(path)
            assert own.isdisjoint(state.tobytes() for state in (*evaluated.starts, *evaluated.goals))
            assert seeds.isdisjoint(instance.seed for instance in evaluated.instances)
    check_development(manifest)
    size = sum((FOLDER / f"libero_goals_dev_v1{suffix}").stat().st_size for suffix in (".json", ".npz"))
    assert size < 1 << 17


def test_what_results_are_reported_on_is_no_development_manifest() -> None:
    manifest = load_manifest("libero_goals_v1")
    with pytest.raises(ValueError, match="one of the shipped libero_goals_v1, on which .*: never tune on the eval"):
        check_development(manifest)
    renamed = replace(manifest, name="mine", goal_frames=255 - manifest.goal_frames)
    with pytest.raises(ValueError, match="goal manifest mine: instance 0 is one of the shipped"):
        check_development(renamed)


def test_the_long_list_leads_from_official_states_by_sub_goals() -> None:
    manifest = load_manifest("libero_place_v1")
    assert len(manifest.instances) >= 25 and {each.category for each in manifest.instances} == {"place"}
    assert manifest.subgoal_frames.shape[1] >= 3 and manifest.episode_steps >= 40
    np.testing.assert_array_equal(manifest.subgoal_frames[:, -1], manifest.goal_frames)
    assert max(each.expert_steps for each in manifest.instances) <= manifest.episode_steps


@pytest.mark.parametrize("instance", [0, 1])
def test_the_expert_replays_to_success(reaching_env: LiberoGoalReachingEnv, instance: int) -> None:
    observation, info = reaching_env.reset(options={"instance": instance})
    assert reaching_env.observation_space.contains(observation)
    assert not info["success"] and info["distance"] >= 0.10 - 1e-9
    assert info["category"] == ("reach", "push")[instance]
    expert, steps = reaching_env.expert(), 0
    terminated = False
    while not terminated and steps < 15:
        observation, reward, terminated, truncated, info = reaching_env.step(expert(info))
        steps += 1
        assert (reward, terminated) == (float(info["success"]), info["success"])
    assert steps == reaching_env.instance.expert_steps
    assert info["distance"] < reaching_env.instance.predicate.radius


@pytest.mark.parametrize("instance", [0, 1])
def test_the_goal_state_fulfils_the_predicate_and_looks_like_the_goal_frame(
    reaching_env: LiberoGoalReachingEnv, instance: int
) -> None:
    observation, _ = reaching_env.reset(options={"instance": instance})
    goal, info = reaching_env.libero.restore_state(reaching_env.manifest.goals[instance])
    assert reaching_env.instance.predicate.distance(info) < 1e-6
    np.testing.assert_array_equal(goal["agentview"], observation["goal"])
    assert not np.array_equal(observation["agentview"], observation["goal"])


def test_every_start_is_apart_from_its_goal_in_the_simulator(reaching_env: LiberoGoalReachingEnv) -> None:
    reaching_env.reset(options={"instance": 0})
    here = reaching_env.instance.scene
    for instance in reaching_env.manifest.instances:
        if instance.scene == here:
            _, info = reaching_env.libero.restore_state(reaching_env.manifest.starts[instance.instance], render=False)
            assert instance.predicate.distance(info) >= 0.10 - 1e-9


def test_the_registered_environment_has_vp2s_limit() -> None:
    assert gymnasium.spec("colaworld/LiberoGoalReaching-v0").max_episode_steps == 15


def test_unknown_instances_and_profiles_are_named(reaching_env: LiberoGoalReachingEnv) -> None:
    count = len(reaching_env.manifest.instances)
    with pytest.raises(ValueError, match=f"unknown instance {count} of goal manifest .* 0..{count - 1}"):
        reaching_env.reset(options={"instance": count})
    with pytest.raises(ValueError, match="drawn with render_profile 'lite', asked for 'full'"):
        LiberoGoalReachingEnv(0, reaching_env.manifest, render_profile="full")


def test_a_missing_manifest_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=f"no goal manifest 'elsewhere' .*shipped: .*{DEFAULT_MANIFEST}"):
        load_manifest("elsewhere")


def test_a_changed_manifest_is_refused(copied: Path) -> None:
    described = json.loads(copied.read_text())
    described["instances"][0]["predicate"]["radius"] = 0.3
    spoil(copied, instances=described["instances"])
    with pytest.raises(ValueError, match="content has sha256 .* frozen as"):
        load_manifest(copied)


def test_changed_arrays_are_refused(copied: Path) -> None:
    with np.load(copied.with_suffix(".npz")) as stored:
        arrays = dict(stored)
    arrays["goal_frames"][0, 0, 0, 0] ^= 1
    np.savez_compressed(copied.with_suffix(".npz"), **arrays)
    with pytest.raises(ValueError, match="frozen as"):
        load_manifest(copied)


def test_another_mujoco_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "version", lambda package: "3.17.0")
    with pytest.raises(ValueError, match="made with mujoco 3.3.2, but 3.17.0 is installed"):
        load_manifest(copied)


@pytest.mark.parametrize("version", [2, None])
def test_another_layout_version_is_named(copied: Path, version: int | None) -> None:
    spoil(copied, version=version)
    with pytest.raises(ValueError, match=f"{copied}: version is {version}, this code reads 1"):
        load_manifest(copied)
    copied.write_text("[]")
    with pytest.raises(ValueError, match="version is 'list', this code reads 1"):
        load_manifest(copied)


def test_fields_of_another_kind_are_named(copied: Path) -> None:
    spoil(copied, instances=3)
    with pytest.raises(ValueError, match=f"{copied}: a field is not what it should be"):
        load_manifest(copied)


def test_damaged_files_are_named(copied: Path) -> None:
    described = json.loads(copied.read_text())
    del described["instances"][0]["seed"]
    spoil(copied, instances=described["instances"])
    with pytest.raises(ValueError, match="field 'seed' is missing"):
        load_manifest(copied)
    copied.with_suffix(".npz").write_bytes(copied.with_suffix(".npz").read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_manifest(copied)
    copied.with_suffix(".npz").unlink()
    with pytest.raises(FileNotFoundError, match="belongs beside"):
        load_manifest(copied)
