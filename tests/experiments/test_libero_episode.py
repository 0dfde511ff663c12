"""One goal instance of the shipped manifest, played in the real simulator by every row of the table."""

import json

import imageio.v2 as imageio
import torch

from colaworld.adapters.system import save_system, staged
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.libero_goal_tasks import LiberoGoalTasks
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.episode_player import world_of
from colaworld.experiments.vp2_eval import evaluate


def test_every_row_plays_in_the_real_simulator(reaching_env, tmp_path) -> None:
    torch.manual_seed(0)
    manifest = reaching_env.manifest
    system = build(
        PRESETS["nano"],
        height=manifest.height,
        width=manifest.width,
        frame_skip=manifest.frame_skip,
        action_dim=7,
        render_profile=manifest.render_profile,
    )
    save_system(staged(system, "adapter"), tmp_path / "system")
    instance = reaching_env.instance.instance
    config = EvalConfig(run=tmp_path / "system", instances=(instance,), samples=3, iterations=1, horizon=2)
    tasks = LiberoGoalTasks(manifest, env=reaching_env)
    summary = json.loads(evaluate(config, tasks, lambda: world_of(config), tmp_path / "out").read_text())
    rows = {entry["row"]: entry for entry in summary["table"]}
    assert set(rows) == {"planner", "random", "expert"}
    assert rows["expert"]["successes"] == 1, "starts are chosen so that the expert finishes"
    assert summary["settings"]["planner"]["manifest_sha256"] == manifest.sha256
    records = [json.loads(line) for line in (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()]
    assert all(record["steps"] <= 15 and record["start_distance"] > 0.05 for record in records)
    assert len({record["start_distance"] for record in records}) == 1, "every row starts from the same state"
    (simulator,) = summary["simulators"]
    assert all(record["simulator"] == simulator for record in records)
    assert (simulator["scene"], simulator["render_profile"]) == (records[0]["scene"], manifest.render_profile)
    assert simulator["gl_renderer"] and simulator["drift_mm"] < 2 and simulator["psnr_db"] > 20
    (strip,) = (tmp_path / "out" / "pictures").glob("*.png")
    assert imageio.imread(strip).shape[0] > 4 * 128
