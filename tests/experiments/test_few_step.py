"""Distillation from recordings to a system that planning takes as it is, and the curves that say what it is worth."""

import json
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from colaworld.adapters.system import load_system, save_system, staged
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.few_step_curve import (
    CurveConfig,
    few_step_curve,
    imagine,
    latent_measures,
    sharpness,
)
from colaworld.experiments.held_out import HeldOutConfig, held_out_windows
from colaworld.experiments.planning_world import load_world
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.train_few_step import FewStepConfig, distil, few_step_account
from colaworld.experiments.training import LoopConfig
from colaworld.models.few_step import ReflowConfig
from colaworld.models.flow import FlowConfig

NOISE = FlowConfig(source="noise", mean_fraction=0.0)


@pytest.fixture
def made(tmp_path, fake_recording) -> FewStepConfig:
    """A teacher of random weights that starts from noise, recordings, and the flags of a short distillation."""
    torch.manual_seed(0)
    system = build(
        PRESETS["nano"], height=32, width=32, frame_skip=5, action_dim=7, render_profile="lite", clip=5, flow=NOISE
    )
    with torch.no_grad():
        for weight in [*system.video.parameters(), *system.conditioner.parameters()]:
            weight.add_(0.15 * torch.randn_like(weight))
    system.model().latent_actions(torch.randn(8, 5, *system.codec.latent_shape))  # the first batch makes the codebook
    save_system(staged(system, "adapter"), tmp_path / "teacher" / "system")
    fake_recording(tmp_path / "data.hdf5", (0, 1, 2, 7, 17), frames=14, size=32)
    return FewStepConfig(
        run=tmp_path / "teacher",
        out=tmp_path / "student",
        data=(tmp_path / "data.hdf5",),
        reflow=ReflowConfig(teacher_steps=2),
        steps=5,
        batch_size=2,
        learning_rate=2e-3,
        shift=1,
        loop=LoopConfig(log_every=1, watch_every=5),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = load_system(folder / "system").parts()
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def test_a_student_is_a_system_like_any_other(made, capsys):
    distil(made)
    assert "system: " in capsys.readouterr().out
    before, after = weights(made.run), weights(made.out)
    assert before.keys() == after.keys()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"video", "conditioner"}
    student = load_system(made.out / "system")
    assert student.info == load_system(made.run / "system").info
    told = few_step_account(made.out / "system")
    assert told["method"] == "reflow" and told["teacher_steps"] == 2 and told["steps"] == 5
    assert told["teacher"] == load_world(made.run).checkpoint
    frames = [json.loads(line) for line in (made.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in frames if "flow" in line] == [1, 2, 3, 4, 5]
    for steps in (1, 4):
        world = load_world(made.out, steps=steps).world
        start = world.start(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 7))
        assert world.imagine(start, torch.zeros(3, 2, 7), torch.Generator().manual_seed(0)).isfinite().all()


class Killed(Exception):
    """Stands for a kill."""


def test_a_killed_run_goes_on_as_if_it_had_never_stopped(made, monkeypatch, capsys):
    distil(made)
    resumed = replace(made, out=made.out.with_name("resumed"))
    read, lives = ClipDataset.__getitem__, [16 + 2 * 3 + 1]  # what is watched, then three steps and a half

    def mortal(self, index):
        lives[0] -= 1
        if lives[0] < 0:
            raise Killed
        return read(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(ClipDataset, "__getitem__", mortal)
        lives[0] += min(16, len(ClipDataset(made.data, length=5, split="validation")))
        with pytest.raises(Killed):
            distil(replace(resumed, loop=replace(made.loop, checkpoint_seconds=0.0)))
    progress = json.loads((resumed.out / "checkpoint" / "progress.json").read_text())
    assert 1 <= progress["step"] <= 4 and not (resumed.out / "system").exists()
    distil(resumed)
    for key, value in weights(made.out).items():
        assert torch.equal(weights(resumed.out)[key], value), key
    assert few_step_account(resumed.out / "system") == few_step_account(made.out / "system")


def test_a_run_killed_before_its_signature_signs_and_trains_nothing(made, capsys):
    distil(made)
    path = made.out / "system" / "system.json"
    told = few_step_account(path.parent)
    unsigned = {key: value for key, value in json.loads(path.read_text()).items() if key != "few_step"}
    path.write_text(json.dumps(unsigned))
    trained = (path.parent / "video" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    distil(made)
    assert few_step_account(path.parent) == told
    assert (path.parent / "video" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == trained


def test_what_cannot_be_distilled_is_named(made, tmp_path, fake_recording, capsys):
    distil(made)
    with pytest.raises(ValueError, match="few_step.json: this run was started with steps=5, not 6"):
        distil(replace(made, steps=6))
    with pytest.raises(ValueError, match="was distilled itself"):
        distil(replace(made, run=made.out, out=tmp_path / "again"))
    fake_recording(tmp_path / "large.hdf5", (0, 7), frames=14, size=40)
    with pytest.raises(ValueError, match="height is 32, but the data say 40"):
        distil(replace(made, data=(tmp_path / "large.hdf5",), out=tmp_path / "large"))
    half = staged(load_system(made.run / "system"), "joint")
    save_system(half, tmp_path / "half")
    with pytest.raises(ValueError, match="trained to stage 'joint'"):
        distil(replace(made, run=tmp_path / "half", out=tmp_path / "from_half"))
    with pytest.raises(ValueError, match="imagined must lie in"):
        replace(made, imagined=2.0)


def test_the_energy_score_prefers_the_truths_own_spread():
    chance = torch.Generator().manual_seed(0)
    truth = torch.randn(400, 1, 4, 4, generator=chance)
    spreads = {spread: spread * torch.randn(2, 400, 1, 4, 4, generator=chance) for spread in (0.0, 0.5, 1.0, 2.0)}
    found = {spread: latent_measures(futures, truth) for spread, futures in spreads.items()}
    means = {spread: torch.tensor(each["energy"]).mean() for spread, each in found.items()}
    assert min(means, key=means.get) == 1.0
    # ... which the squared error does not.
    errors = {spread: torch.tensor(each["latent_error"]).mean() for spread, each in found.items()}
    assert min(errors, key=errors.get) == 0.0
    exact = latent_measures(torch.stack([truth, truth]), truth)
    assert max(exact["energy"]) == 0.0 and max(exact["latent_error"]) == 0.0
    apart = latent_measures(torch.stack([truth + 1.0, truth - 1.0]), truth)
    assert apart["energy"] == pytest.approx([0.0] * 400, abs=1e-4)  # 4 to the truth, 8 from each other


def test_sharpness_is_of_what_moved():
    truth = torch.rand(3, 3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(truth, 3, 1, 1)
    where = torch.zeros(3, 32, 32, dtype=torch.bool)
    where[:2, 8:16, 8:16] = True  # nowhere in the last
    assert sharpness(truth, truth, where).tolist() == pytest.approx([1.0] * 3)
    assert (sharpness(blurred, truth, where) < 0.6).all()
    elsewhere = torch.where(where[:, None], truth, 0.5 * torch.ones(()))
    elsewhere[:, :, 6:18, 6:18] = truth[:, :, 6:18, 6:18]
    assert sharpness(elsewhere, truth, where)[:2].tolist() == pytest.approx([1.0] * 2)
    assert sharpness(elsewhere, truth, where)[2] < 0.9


QUICK = CurveConfig(steps=(1, 2), horizons=(1, 2), clips=3, draws=2)


def test_curves_are_written_whole_and_say_what_they_are_of(made, tmp_path, capsys):
    distil(made)
    few_step_curve((made.run, made.out), made.data, out=tmp_path / "curve", config=QUICK, strips=1)
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "curve" / "few_step_curve.json").read_text())
    teacher, student = (report["runs"][str(run)] for run in (made.run, made.out))
    assert teacher["few_step"] is None and student["few_step"]["method"] == "reflow"
    assert report["windows"] == 3 and teacher["flow"]["source"] == "noise"
    assert teacher["curve"]["2"]["1"]["from_teacher"]["estimate"] == 0.0
    assert teacher["curve"]["1"]["1"]["from_teacher"]["low"] > 0.0
    assert student["curve"]["2"]["1"]["from_teacher"]["low"] > 0.0
    for run in (teacher, student):
        for at in (found[horizon] for found in run["curve"].values() for horizon in ("1", "2")):
            assert at["latent_error"]["low"] <= at["latent_error"]["estimate"] <= at["latent_error"]["high"]
            assert at["frechet"]["n"] == 3 and len(at["clips"]["energy"]) == 3
        one, two = run["curve"]["1"]["2"]["psnr"]["estimate"], run["curve"]["2"]["2"]["psnr"]["estimate"]
        assert run["one_step_minus"]["2"]["2"]["psnr"]["estimate"] == pytest.approx(one - two, abs=1e-4)
    at_two = [student["curve"]["1"]["2"]["psnr"]["estimate"], teacher["curve"]["2"]["2"]["psnr"]["estimate"]]
    ahead = student["one_step_minus"]["T2"]["2"]["psnr"]
    assert ahead["estimate"] == pytest.approx(at_two[0] - at_two[1], abs=1e-4)
    assert "T2" not in teacher["one_step_minus"]
    assert str(made.out) in printed and " 1   1-2" in printed
    assert iio.imread(tmp_path / "curve" / "few_step_curve.png").ndim == 3
    assert iio.imread(tmp_path / "curve" / "strip_0.png").shape == (2 * 32 * 5, 2 * 32 * 3, 3)


def test_draws_differ_from_noise_and_are_one_from_the_last_frame(made):
    windows, _ = held_out_windows(
        ClipDataset(made.data, length=12, split="validation").episodes, HeldOutConfig(clips=3, strips=0)
    )
    system = load_system(made.run / "system")
    noisy = imagine(system, windows, 1, QUICK)
    assert noisy.shape[:3] == (2, 3, 2) and not torch.equal(noisy[0], noisy[1])
    assert torch.equal(noisy, imagine(system, windows, 1, QUICK))
    still = imagine(replace(system, info=replace(system.info, flow=FlowConfig())), windows, 1, QUICK)
    assert torch.equal(still[0], still[1])


def test_curves_that_would_not_compare_are_refused(made, tmp_path):
    other = load_system(made.run / "system")
    save_system(staged(other, "joint"), tmp_path / "joint")
    with pytest.raises(ValueError, match="trained to stage 'joint'"):
        few_step_curve((made.run, tmp_path / "joint"), made.data, out=tmp_path / "curve", config=QUICK)
    with torch.no_grad():
        next(other.codec.parameters()).add_(1.0)
    save_system(other, tmp_path / "other")
    with pytest.raises(ValueError, match="another codec"):
        few_step_curve((made.run, tmp_path / "other"), made.data, out=tmp_path / "curve", config=QUICK)
    for arguments, said in (({"steps": (1, 1)}, "1, 1"), ({"horizons": (11,)}, "11"), ({"draws": 1}, "got 64 and 1")):
        with pytest.raises(ValueError, match=said):
            CurveConfig(**arguments)
