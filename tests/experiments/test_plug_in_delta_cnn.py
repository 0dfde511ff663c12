"""The worked example: trains, saves, loads, keeps the laws of a world, learns what actions do, and plans."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from colaworld.envs.demos import ClipDataset
from colaworld.experiments.conformance_world import check_world
from colaworld.experiments.examples import delta_cnn
from colaworld.experiments.examples.delta_cnn import CONTEXT, WEIGHTS, DeltaCNN, DeltaConfig, DeltaWorld, train
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.held_out import HeldOutConfig
from colaworld.experiments.planning_world import LoadedWorld
from colaworld.experiments.plug_in import PlugInError, plug_in
from colaworld.experiments.vp2_eval import evaluate

SPEC = f"{delta_cnn.__file__}:world"
SMALL = DeltaConfig(channels=8, depth=1, steps=4, batch_size=2, unroll=2)


@pytest.fixture
def recording(tmp_path: Path, fake_recording) -> Path:
    fake_recording(tmp_path / "play.hdf5", range(30), frames=13, walker=True)
    return tmp_path / "play.hdf5"


@pytest.fixture
def run(tmp_path: Path, recording: Path) -> Path:
    """The folder of a trained example."""
    held_out = HeldOutConfig(clips=2, strips=1)
    delta_cnn.delta_cnn(out=tmp_path / "run", data=(recording,), config=SMALL, held_out=held_out)
    return tmp_path / "run"


def test_a_trained_folder_is_plugged_in_as_a_world(run: Path) -> None:
    plugged = plug_in(SPEC, (f"path={run}",), kind="world")
    world = plugged.made
    assert (world.render_profile, world.frame_skip, world.height, world.width) == ("lite", 5, 16, 16)
    assert world.action_dim == 7 and plugged.identity["checkpoint"]
    findings = check_world(world, height=16, width=16)
    assert {finding.status for finding in findings} == {"pass"}
    assert "with_gradients" in {finding.method for finding in findings}


def test_the_run_tells_what_it_is_worth(run: Path) -> None:
    report = json.loads((run / "held_out.json").read_text())
    assert {row["variant"] for row in report["rows"]} == {"delta CNN", "delta CNN, shuffled"}
    assert (run / "strip_0.png").is_file()


def test_the_same_seed_gives_the_same_weights(recording: Path) -> None:
    clips = ClipDataset([recording], length=CONTEXT + SMALL.unroll)
    first, second = (train(clips, SMALL).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(weight.abs().max() > 0 for name, weight in first.items() if name.startswith("leave"))


def test_before_training_it_copies_the_last_frame() -> None:
    latents = torch.rand(2, CONTEXT, 3, 8, 8)
    assert torch.equal(DeltaCNN(action_dim=7, channels=8, depth=1)(latents, torch.rand(2, 7)), latents[:, -1])


def test_what_is_missing_or_cut_short_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(PlugInError, match=f"FileNotFoundError: {tmp_path}/nowhere holds no {WEIGHTS}"):
        plug_in(SPEC, (f"path={tmp_path}/nowhere",), kind="world")
    weights = run / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ValueError, match=f"{weights} cannot be read"):
        delta_cnn.world(run)
    with pytest.raises(ValueError, match="--unroll must be 1 or more, got 0"):
        DeltaConfig(unroll=0)


@pytest.fixture(scope="module")
def learned() -> DeltaWorld:
    """Taught by spots that walk about 16x16 pictures as the toy task's do."""
    torch.manual_seed(0)
    model = DeltaCNN(action_dim=7, channels=24, depth=2)
    optimiser, axis = torch.optim.AdamW(model.parameters(), 5e-3), torch.arange(16.0)

    def seen(places: torch.Tensor) -> torch.Tensor:
        row, column = (torch.exp(-((axis - places[:, number, None]) ** 2) / 30) for number in (0, 1))
        return F.avg_pool2d((row[:, :, None] * column[:, None])[:, None].expand(-1, 3, -1, -1), delta_cnn.POOL)

    for _ in range(250):
        place, actions = 15 * torch.rand(32, 2), 2 * torch.rand(32, 2, 7) - 1
        places = [place, *((place + 2 * moves).clamp(0, 15) for moves in actions[..., :2].cumsum(dim=1).unbind(dim=1))]
        before, now, after = (seen(each) for each in places)
        loss = F.mse_loss(model(torch.stack([before, now], dim=1), actions[:, 1]), after)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return DeltaWorld(model)


def test_it_learns_what_actions_do(learned: DeltaWorld) -> None:
    dark = torch.zeros(1, CONTEXT, 3, 8, 8)
    dark[..., 2:6, 2:6] = 0.8
    actions = torch.zeros(2, 1, 7)
    actions[0, 0, 1], actions[1, 0, 1] = 1, -1
    right, left = learned.model.roll_out(dark.expand(2, -1, -1, -1, -1), actions)[:, 0].mean(dim=(1, 2))
    columns = torch.arange(8.0)
    assert (right * columns).sum() / right.sum() > (left * columns).sum() / left.sum() + 0.5


def test_it_plans_to_goals(learned: DeltaWorld, spot_tasks, tmp_path: Path) -> None:
    config = EvalConfig(samples=32, iterations=2, horizon=3, blur=0, rows=("planner", "random"), pictures=False)
    loaded = LoadedWorld(world=learned, checkpoint="taught here")
    table = json.loads(evaluate(config, spot_tasks(), lambda: loaded, tmp_path).read_text())["table"]
    reached = {entry["row"]: entry["successes"] for entry in table if entry["category"] == "all"}
    assert reached["planner"] >= 5 > reached["random"]
