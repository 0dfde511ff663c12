"""The second data set: what ships, and what the script says of nano systems on made-up clips."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from colaworld.adapters.system import ColaSystem, load_system, save_system, staged
from colaworld.envs.demos import ClipDataset
from colaworld.envs.recording import SceneHeader
from colaworld.envs.starter import TABLE, read_starter, second_path, starter_path
from colaworld.experiments import second_data as script
from colaworld.experiments.adapter_fit import AdapterFitConfig
from colaworld.experiments.evaluation import EvaluationConfig
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.second_data import MEASURES, STEPS, home_means, name_and_seed, read_lines, second_data, table

Write = Callable[..., list]
FIT = AdapterFitConfig(steps=4, batch_size=16, validation=0.0)
FEW = EvaluationConfig(train_clips=12)


def system_of(recipe: str, seed: int = 0) -> ColaSystem:
    """Nano, with every layer that starts at zero moved away from it, so that actions have an effect."""
    torch.manual_seed(seed)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
    system = build(PRESETS["nano"], **sizes, recipe=recipe)
    with torch.no_grad():
        for part in system.parts().values():
            for parameter in part.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
        if system.inverse_dynamics is not None:
            system.model().latent_actions(torch.randn(4, 12, *system.codec.latent_shape))  # fill the codebook
    return staged(system, "adapter")


def run_of(folder: Path, recipe: str, seed: int) -> Path:
    """A run folder as training leaves it, as far as this script looks."""
    folder.mkdir()
    save_system(system_of(recipe, seed), folder / "system")
    config = {"loop": {"seed": seed}, "adapter": {"steps": 75, "learning_rate": 3e-4, "through_adapter": 0.0}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def recording(tmp_path: Path, fake_recording: Write) -> Path:
    """Six trajectories to train on, three held out; a square walks over each, so that something moves."""
    path = tmp_path / "data.hdf5"
    fake_recording(path, [1, 2, 3, 4, 5, 6, 7, 17, 27], frames=16, size=32)
    with h5py.File(path, "r+") as file:
        for place, demo in enumerate(file["data"].values()):
            frames = demo["obs/agentview_rgb"][()]
            for number, frame in enumerate(frames):
                frame[2 * place : 2 * place + 8, number : number + 8] = 250
            demo["obs/agentview_rgb"][...] = frames
    return path


@pytest.fixture
def small(recording: Path, tmp_path: Path) -> dict[str, Any]:
    """Flags of a run of the script that takes a second."""
    places = {"data": (recording,), "home": (recording,), "out": tmp_path / "out.jsonl", "strips": tmp_path / "strips"}
    return {**places, "evaluation": FEW, "fit": FIT, "adapter_steps": 1, "batch_size": 2, "clips": 4}


def test_what_ships_is_small_and_of_scenes_that_the_starter_data_do_not_hold() -> None:
    scenes = read_starter(second_path())
    with h5py.File(starter_path() / TABLE) as file:
        starter = [SceneHeader.read(group.attrs, starter_path() / TABLE) for group in file.values()]
    headers = [each.header for each in scenes]
    assert not {each.suite for each in headers} & {each.suite for each in starter}
    assert len({each.suite for each in headers}) == 2
    made = {(each.height, each.width, each.frame_skip, each.render_profile) for each in headers + starter}
    assert len(made) == 1  # a system of one can be run on the other
    for each in scenes:
        assert len(each.frames) >= 40 and each.splits.count("validation") >= 3
        assert np.isfinite(each.ee_pos).all() and np.abs(each.actions).max() <= 1.0
    assert sum(file.stat().st_size for file in second_path().iterdir()) <= 1.2 * 2**20
    assert ClipDataset([second_path()], length=12, split="validation").action_dim == 7


def test_a_system_is_measured_before_and_after_and_stays_as_it_was(small: dict[str, Any], tmp_path: Path, capsys):
    run = run_of(tmp_path / "cola-s3", "cola", 3)
    weights = load_system(run / "system").adapter.state_dict()
    second_data((run,), **small)
    (record,) = read_lines(small["out"])
    assert (record["name"], record["recipe"], record["seed"], record["notes"]) == ("cola-s3", "cola", 3, [])
    stage = record["stage"]
    assert (stage["steps"], stage["batch_size"], stage["learning_rate"]) == (1, 2, 3e-4), "the run's, of other length"
    assert stage["through_adapter"] == 0.0
    zero, fitted, tuned = (record[step] for step in ("zero_shot", "fitted", "fine_tuned"))
    # The fit moves the adapter, the stage after it the world model, and nothing moves what codes are read.
    errors = {(step, name): record[step][name]["next_frame_error"] for step in STEPS[1:] for name in ("idm", "adapter")}
    assert errors["zero_shot", "idm"] == pytest.approx(errors["fitted", "idm"])
    assert errors["zero_shot", "adapter"] != pytest.approx(errors["fitted", "adapter"])
    assert errors["fine_tuned", "idm"] != pytest.approx(errors["fitted", "idm"])
    assert zero["idm"]["health"] == fitted["idm"]["health"] == tuned["idm"]["health"]
    assert zero["probe"]["l1"] == pytest.approx(tuned["probe"]["l1"]) and zero["transfer"]["n"] >= 3
    assert fitted["fit"]["steps"] == 4.0
    assert len(set(record["trajectories"])) == 3
    for key, value in load_system(run / "system").adapter.state_dict().items():
        assert torch.equal(value, weights[key])
    shown = capsys.readouterr().out
    assert "cola, seed 3 (cola-s3)" in shown and "PSNR (dB) at horizon 10, true frames, through the codec" in shown
    assert "SSIM at horizon 10, adapter" in shown and "LPIPS" not in shown  # no network given
    clips = record["zero_shot"]["adapter"]["video"]["10"]["frechet"]["n"]
    assert f"Fréchet distances on conv3d-random-v1, n = {clips}" in shown
    assert f"conv3d-random-v1: {clips} clips are few for its 16 features" in shown


def test_a_model_of_real_actions_has_no_codes_and_says_so(small: dict[str, Any], tmp_path: Path):
    second_data((run_of(tmp_path / "real", "real_actions", 0),), **small)
    (record,) = read_lines(small["out"])
    assert record["fitted"] is None and record["zero_shot"]["idm"] is None
    assert record["stage"]["learning_rate"] == 3e-4
    assert len(record["notes"]) == 1 and record["notes"][0].startswith("no latent action model")
    assert record["zero_shot"]["adapter"]["next_frame_error"] != record["fine_tuned"]["adapter"]["next_frame_error"]
    title, *rows = table(record).splitlines()
    assert title.split()[-4:] == ["home", "zero-shot", "fitted", "fine-tuned"]
    adapted = next(row for row in rows if row.startswith("next-frame error, adapter "))
    cells = adapted.removeprefix("next-frame error, adapter ").split("  ")
    assert [cell for cell in cells if cell.strip()].count("-") + cells.count(" -") == 2  # home and fitted
    assert not any("IDM's codes " in row or "transfer" in row for row in rows if not row.startswith("  "))


def test_the_same_command_measures_only_what_is_missing(small: dict[str, Any], tmp_path: Path, monkeypatch):
    looked = []
    report = {"zero_shot": {}, "fitted": None, "fine_tuned": None, "notes": []}
    monkeypatch.setattr(script, "look", lambda system, *_, **__: looked.append(system.info.recipe) or report)
    runs = (run_of(tmp_path / "a", "cola", 0), run_of(tmp_path / "b", "two_stage", 0))
    second_data(runs[:1], **small)
    first = small["out"].read_bytes()
    assert read_lines(small["out"])[0]["stage"]["learning_rate"] == 3e-4
    second_data(runs, **small)
    second_data((*runs, runs[0] / "system"), **small)  # the same weights by another path
    assert looked == ["cola", "two_stage"]
    assert small["out"].read_bytes().startswith(first) and len(read_lines(small["out"])) == 2
    save_system(system_of("cola", 9), runs[0] / "system")  # trained anew
    second_data(runs, **small)
    assert looked == ["cola", "two_stage", "cola"]


def test_a_file_of_other_settings_or_with_a_damaged_line_is_refused(small: dict[str, Any], tmp_path: Path, monkeypatch):
    report = {"zero_shot": {}, "fitted": None, "fine_tuned": None, "notes": []}
    monkeypatch.setattr(script, "look", lambda *_, **__: report)
    run = run_of(tmp_path / "a", "cola", 0)
    second_data((run,), **small)
    with pytest.raises(ValueError, match=r"out.jsonl: a was made with adapter_steps = 1, not 2; name another --out"):
        second_data((run,), **{**small, "adapter_steps": 2})
    whole = small["out"].read_text()
    small["out"].write_text(whole.replace('"format": 2', '"format": 1'))
    with pytest.raises(ValueError, match=r"line 1 holds no system \(format is 1, this version reads 2\)"):
        second_data((run,), **small)
    small["out"].write_text(whole + '{"format": 1, "we\n')
    with pytest.raises(ValueError, match=r"out.jsonl: line 2 holds no system"):
        second_data((run,), **small)


def test_a_system_without_an_adapter_is_refused_before_anything_is_measured(small: dict[str, Any], tmp_path: Path):
    save_system(staged(system_of("cola"), "joint"), tmp_path / "young")
    with pytest.raises(ValueError, match="young has only been trained to stage 'joint'; the second data"):
        second_data((tmp_path / "young",), **small)
    assert not small["out"].exists()


def test_what_a_run_says_of_its_own_data_is_the_home_column(tmp_path: Path):
    run = run_of(tmp_path / "cola-s1", "cola", 1)
    assert name_and_seed(run) == name_and_seed(run / "system") == ("cola-s1", 1)
    assert name_and_seed(tmp_path / "tiny" / "cola") == ("tiny/cola", None)
    more = {"copy": {"next_frame_error": [5.0]}, "codec": {"video": {"1": {"psnr": [30.0, 32.0]}}}}
    assert len(home_means(run, more)) == 2
    (run / "evaluation.json").write_text(json.dumps({"idm": {"use": 0.25}, "copy": {"next_frame_error": [1.0, 3.0]}}))
    means = home_means(run, more)
    assert means["action use U, IDM's codes"] == 0.25 and means["next-frame error, last frame copied"] == 2.0
    assert means["PSNR (dB) at horizon 1, true frames, through the codec"] == 31.0 and len(means) == 3
    assert set(means) <= {each.title for each in MEASURES}
    (run / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match="evaluation.json: not valid JSON"):
        home_means(run, {})
