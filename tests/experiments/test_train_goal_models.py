"""The script from recordings to a folder of goal models: goes on where it stopped, and says what the data lack."""

import json
from dataclasses import replace

import h5py
import pytest
import torch

from colaworld.adapters.goal_models import DESCRIPTION, load_goal_models
from colaworld.adapters.system import load_system, save_system, staged
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.goal_pairs import tabulate_goals
from colaworld.experiments.inverse_adapter_fit import read_transitions
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.train_goal_models import GoalFitConfig, train_goal_models

QUICK = GoalFitConfig(steps=6, batch_size=16, width=4, hidden=8, max_steps=5, longest=3, chunk=2)


@pytest.fixture
def made(tmp_path, fake_recording):
    """A run folder with an untrained system, and a recording."""
    torch.manual_seed(0)
    system = build(PRESETS["nano"], height=16, width=16, frame_skip=5, action_dim=7, render_profile="lite")
    save_system(staged(system, "adapter"), tmp_path / "run" / "system")
    fake_recording(tmp_path / "data.hdf5", (0, 1, 2, 7, 17, 27), frames=8)
    return tmp_path / "run", (tmp_path / "data.hdf5",)


def test_all_five_lie_beside_the_system_with_what_they_are_worth(made, capsys) -> None:
    run, data = made
    out = train_goal_models(run, data=data, fit_config=QUICK)
    assert out == run / "goal_models"
    models = load_goal_models(out, load_system(run / "system").codec)
    now = torch.zeros(3, *load_system(run / "system").codec.latent_shape)
    assert models.progress(now, now).shape == (3,) and models.success(now, now).shape == (3, 2)
    assert models.policy(now, now).shape == (3, 2, 7)
    assert models.distance.cost(now, now, "both").shape == (3,)
    system = load_system(run / "system")
    inverse = models.inverse_of(system)
    assert inverse(torch.zeros(3, system.bottleneck.dim), now, now).shape == (3, 7)
    assert inverse.usage.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    about = json.loads((out / DESCRIPTION).read_text())["parts"]
    assert {"progress", "latent", "pixel"} <= set(about["progress"]["held_out"]["order"])
    assert about["policy"]["held_out"]["relative_error"] > 0 and about["success"]["settings"]["steps"] == 6
    assert set(about["inverse"]["held_out"]) >= {"relative_error", "relative_error_shuffled", "gripper_accuracy"}
    held_out = about["distance"]["held_out"]
    assert {"recorded", "imagined 1 ahead", "imagined 6 ahead"} == set(held_out["gripper_off_cm"]) & {
        "recorded", "imagined 1 ahead", "imagined 6 ahead"
    }  # fmt: skip
    assert set(held_out["order"]) >= {"distance", "pixel"} and set(held_out["order_imagined"]) == {"distance", "latent"}
    assert held_out["imagined_frames"] > 0
    assert about["distance"]["settings"]["imagined"] == 0.5 and "imagined" not in about["policy"]["settings"]
    assert "progress: order, pixel" in capsys.readouterr().out


def test_the_same_command_goes_on_and_another_does_not_mix(made, capsys) -> None:
    run, data = made
    broken, unbroken = run / "broken", run / "unbroken"
    train_goal_models(run, ("policy",), data=data, fit_config=QUICK, out=broken)
    before = (broken / "policy" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    train_goal_models(run, data=data, fit_config=QUICK, out=broken)
    assert (broken / "policy" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == before
    train_goal_models(run, data=data, fit_config=QUICK, out=unbroken)
    for name in ("distance", "progress", "success", "policy", "inverse"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        assert (broken / file).read_bytes() == (unbroken / file).read_bytes()
    train_goal_models(run, data=data, fit_config=QUICK, out=broken)
    assert "nothing is left to train" in capsys.readouterr().out
    with pytest.raises(ValueError, match="policy made with seed = 0, this run has 1; name another --out"):
        train_goal_models(run, ("policy",), data=data, fit_config=QUICK, seed=1, out=broken)


def test_the_distance_learns_from_what_is_imagined_and_says_when_nothing_is(made, tmp_path, capsys) -> None:
    run, data = made
    weights = []
    for share in (0.0, 1.0):
        fit = replace(QUICK, imagined=share)
        out = train_goal_models(run, ("distance",), data=data, fit_config=fit, out=tmp_path / str(share))
        weights.append((out / "distance" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert weights[0] != weights[1] and "recorded frames alone" not in capsys.readouterr().out
    system = load_system(run / "system")
    save_system(staged(system, "joint"), tmp_path / "young" / "system")
    out = train_goal_models(tmp_path / "young", ("distance",), data=data, fit_config=QUICK)
    assert json.loads((out / DESCRIPTION).read_text())["parts"]["distance"]["held_out"]["imagined_frames"] == 0
    assert "learns from recorded frames alone" in capsys.readouterr().out


def test_data_without_positions_teach_progress_alone(made) -> None:
    run, data = made
    with h5py.File(data[0], "r+") as file:
        for demo in file["data"].values():
            demo["obs/object_pos"][...] = float("nan")
    with pytest.raises(ValueError, match="taught by positions.*have none"):
        train_goal_models(run, ("success",), data=data, fit_config=QUICK)
    with pytest.raises(ValueError, match="distance is taught by positions.*have none"):
        train_goal_models(run, ("distance",), data=data, fit_config=QUICK)
    out = train_goal_models(run, ("progress",), data=data, fit_config=QUICK)
    held_out = json.loads((out / DESCRIPTION).read_text())["parts"]["progress"]["held_out"]
    assert set(held_out) == {"order"}


def test_goal_models_lie_beside_a_system_and_not_in_it(made) -> None:
    run, data = made
    assert train_goal_models(run / "system", ("policy",), data=data, fit_config=QUICK) == run / "goal_models"


def test_an_inverse_adapter_reads_every_labelled_transition_of_its_own_trajectory(made) -> None:
    run, data = made
    system = load_system(run / "system")
    table = tabulate_goals(system.codec, ClipDataset(data, length=2, split="train").episodes)
    table.actions[3] = torch.nan
    readings = read_transitions(system, table)
    assert len(readings.now) == len(table) - len(table.length) - 1 and 3 not in readings.now
    assert bool((table.trajectory[readings.before] == table.trajectory[readings.now]).all())
    assert (readings.now - readings.before).unique().tolist() == [0, 1]
    clip = table.latents[None, table.first[1] : table.first[1] + table.length[1]]
    own = table.trajectory[readings.now] == 1
    read = system.model().eval().latent_actions(clip)
    assert torch.equal(readings.codes[own], read.indices[0])
    torch.testing.assert_close(readings.latent_actions[own], read.latents[0])
    assert torch.equal(readings.actions[own], table.actions[readings.now[own]])
    system.inverse_dynamics = None
    with pytest.raises(ValueError, match="no latent actions"):
        read_transitions(system, table)
    system = load_system(run / "system")
    table.actions[:] = torch.nan
    with pytest.raises(ValueError, match="learns from actions; the data have none"):
        read_transitions(system, table)


def test_bad_settings_are_named(made, fake_recording, tmp_path) -> None:
    with pytest.raises(ValueError, match="batch_size .* got 0"):
        GoalFitConfig(batch_size=0)
    with pytest.raises(ValueError, match=r"far .*\[0, 1\), got 1.0"):
        GoalFitConfig(far=1.0)
    with pytest.raises(ValueError, match=r"imagined .*\[0, 1\], got 1.5"):
        GoalFitConfig(imagined=1.5)
    fake_recording(tmp_path / "large.hdf5", (0, 7), size=32)
    with pytest.raises(ValueError, match="height of the system is 16, of the data 32"):
        train_goal_models(made[0], data=(tmp_path / "large.hdf5",), fit_config=QUICK)
    with pytest.raises(FloatingPointError, match="loss of policy is nan at step"):
        train_goal_models(
            made[0], ("policy",), data=made[1], fit_config=GoalFitConfig(steps=9, batch_size=8, learning_rate=1e30)
        )
