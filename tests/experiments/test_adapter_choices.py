"""Adapter choices on nano systems: what is measured obeys known cases, and every choice has the same start."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from colaworld.adapters.system import ColaSystem, save_system, staged
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.adapter_choices import (
    adapter_choices,
    fine_tuned,
    fresh_adapter,
    interval_text,
    measure,
    stage_of,
)
from colaworld.experiments.adapter_fit import AdapterFitConfig
from colaworld.experiments.batches import Batch
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.reproduce_measures import health, number, video
from colaworld.experiments.train_config import TrainConfig, remember_run
from colaworld.experiments.video_metrics import VideoMetricsConfig
from colaworld.models.health import codebook_health

Write = Callable[..., list]
FIT = AdapterFitConfig(steps=4, batch_size=16, validation=0.0)


def system_of(recipe: str = "cola") -> ColaSystem:
    """Nano, with every layer that starts at zero moved away from it, so that actions have an effect."""
    torch.manual_seed(0)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
    system = build(PRESETS["nano"], **sizes, recipe=recipe)
    with torch.no_grad():
        for part in system.parts().values():
            for parameter in part.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
        if system.inverse_dynamics is not None:  # fill the codebook
            system.model().latent_actions(system.codec.encode(windows(6).frames))
    for part in system.parts().values():
        part.eval()
    return staged(system, "adapter")


def windows(count: int) -> Batch:
    """Frames of dim grain with a bright square that is somewhere else in each clip and walks."""
    draw = np.random.default_rng(0)
    frames = draw.integers(40, 80, (count, 12, 3, 32, 32), dtype=np.uint8)
    for clip, (y, x, step) in enumerate(draw.integers(1, 3, (count, 3))):
        for number_ in range(12):
            frames[clip, number_, :, 4 * y : 4 * y + 8, x + step * number_ : x + step * number_ + 8] = 230
    actions = torch.from_numpy(draw.normal(size=(count, 11, 5, 7)).astype(np.float32))
    return Batch(torch.from_numpy(frames), actions, torch.zeros(count, 12, 3))


@pytest.fixture
def recording(tmp_path: Path, fake_recording: Write) -> Path:
    """Five trajectories to train on, three held out."""
    path = tmp_path / "data.hdf5"
    fake_recording(path, [1, 2, 3, 4, 5, 7, 17, 27], frames=16, size=32)
    return path


def clips_of(path: Path, split: str) -> ClipDataset:
    return ClipDataset([path], length=12, split=split)


def test_an_adapter_that_answers_with_the_mean_has_an_error_of_one_and_does_not_hear_actions():
    system, clips = system_of(), windows(6)
    with torch.no_grad():
        read = system.model().latent_actions(system.codec.encode(clips.frames))
        system.adapter = fresh_adapter(system, "regress", 0, snap=False, seed=0).eval()
        system.adapter.mlp[-1].weight.zero_()
        system.adapter.mlp[-1].bias.copy_(read.latents.mean(dim=(0, 1)))
    report = measure(system, clips, VideoMetricsConfig())
    assert report["adapter"]["relative_error"] == pytest.approx(1.0, rel=1e-4)
    assert report["idm"]["relative_error"] == 0.0
    for name in ("adapter", "adapter_codes"):
        for key in ("next_frame_error", "video"):
            assert report[name][key] == report[f"{name}_shuffled"][key]
    assert report["adapter"]["next_frame_error"] != report["adapter_codes"]["next_frame_error"]
    assert report["idm"]["next_frame_error"] != report["idm_shuffled"]["next_frame_error"]
    assert health("adapter", "max_usage").read(report) == 1.0  # the mean is nearest one code, everywhere
    truth = codebook_health(read.indices, system.bottleneck.code_sizes)
    assert [each["entropy"] for each in report["idm"]["health"]] == [each.entropy for each in truth]


def test_an_adapter_that_knows_the_codes_is_as_good_as_inverse_dynamics():
    system, clips = system_of(), windows(6)
    adapter = fresh_adapter(system, "classify", 0, snap=False, seed=0)
    codes = system.model().latent_actions(system.codec.encode(clips.frames)).indices
    # The first numbers of each action chunk say which codes are right, and the adapter hands them on.
    sizes = system.bottleneck.code_sizes
    hot = torch.cat([torch.nn.functional.one_hot(codes[..., k], size) for k, size in enumerate(sizes)], dim=-1)
    clips.actions.zero_().flatten(2)[..., : sum(sizes)] = 100.0 * hot
    adapter.mlp = torch.nn.Sequential(torch.nn.Linear(35, sum(sizes), bias=False))
    with torch.no_grad():
        adapter.mlp[0].weight.copy_(torch.eye(sum(sizes), 35))
    report = measure(replace(system, adapter=adapter.eval()), clips, VideoMetricsConfig())
    assert report["adapter"]["confusion"]["accuracy"] == (1.0, 1.0)
    assert report["adapter"]["relative_error"] < 1e-6
    for name in ("adapter", "adapter_codes"):
        assert report[name]["next_frame_error"] == pytest.approx(report["idm"]["next_frame_error"], rel=1e-4)
        assert report[name]["video"]["10"]["psnr"] == pytest.approx(report["idm"]["video"]["10"]["psnr"], abs=1e-3)
    assert report["adapter"]["health"] == report["idm"]["health"]


def test_what_imagined_video_is_compared_with_has_passed_the_codec_too():
    report = measure(system_of(), windows(4), VideoMetricsConfig())
    last, last_through = (np.array(report[name]["video"]["10"]["psnr"]) for name in ("copy", "codec_copy"))
    true_through = number("codec", "codec", "video", "10", "psnr").read(report)
    assert (last > last_through).all() and (true_through > last_through).any()
    np.testing.assert_array_equal(last, video("copy", "psnr", 10).read(report))


def test_fine_tuning_moves_a_copy_of_the_world_model_and_no_code(recording: Path):
    system = system_of()
    before = {name: {key: each.clone() for key, each in part.state_dict().items()} for name, part in parts(system)}
    tuned = fine_tuned(system, stage_of(2, 2), clips_of(recording, "train"), clips_of(recording, "validation"), seed=0)
    for name, part in parts(system):
        same = {key: torch.equal(each, before[name][key]) for key, each in part.state_dict().items()}
        assert all(same.values()), name
        after = tuned.parts()[name].state_dict()
        moved = [key for key, each in before[name].items() if not torch.equal(each, after[key])]
        assert bool(moved) == (name in ("video", "conditioner", "adapter")), (name, moved)


def test_the_stage_is_the_runs_own_of_another_length(tmp_path: Path):
    usual = TrainConfig().adapter
    own = replace(usual, steps=75, learning_rate=4e-4, learning_rate_warmup=15, through_adapter=0.0, shift=0)
    remember_run(TrainConfig(out=tmp_path / "run", adapter=own))
    save_system(system_of(), tmp_path / "run" / "system")
    for path in (tmp_path / "run", tmp_path / "run" / "system"):
        assert stage_of(200, 5, path) == replace(own, steps=200, batch_size=5)
    assert stage_of(40, 5, tmp_path / "run") == replace(own, steps=40, batch_size=5, learning_rate_warmup=8)
    for path in (None, tmp_path / "no run"):
        assert stage_of(400, 5, path) == replace(usual, steps=400, batch_size=5)
        assert stage_of(40, 5, path).learning_rate_warmup == 8
    config = tmp_path / "run" / "config.json"
    config.write_text('{"loop": {"seed": 1}}')
    assert stage_of(400, 5, tmp_path / "run") == replace(usual, steps=400, batch_size=5), "it says nothing of it"
    for wrong in ('{"adapter": {"steps": 75, "unheard_of": 1}}', '{"adapter": 3}', "{"):
        config.write_text(wrong)
        with pytest.raises(ValueError, match="config.json: field 'adapter' is no stage of this version"):
            stage_of(400, 5, tmp_path / "run")


def parts(system: ColaSystem) -> list[tuple[str, torch.nn.Module]]:
    return list(system.parts().items())


def test_an_interval_counts_trajectories_and_not_windows():
    text = interval_text([1.0, 1.0, 1.0, 1.0, 4.0, 7.0], ["a", "a", "a", "a", "b", "c"], 1)
    assert text.startswith("4.0 [")  # of 1, 4, 7: the mean of the windows is 2.5
    assert interval_text([1.0, 3.0], ["a", "a"], 1) == "2.0"


def test_every_choice_starts_from_the_same_weights_and_is_in_the_table(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    save_system(system_of(), tmp_path / "system")
    remember_run(TrainConfig(out=tmp_path, adapter=replace(TrainConfig().adapter, learning_rate=3e-4)))
    out = tmp_path / "choices.json"
    chosen = {"kinds": ("regress", "classify"), "context": (2,), "fit": FIT, "fine_tune": 1, "batch_size": 2}
    adapter_choices(tmp_path, data=(recording,), clips=2, out=out, **chosen)
    stage = json.loads(out.read_text())["settings"]["stage"]
    assert (stage["steps"], stage["batch_size"], stage["learning_rate"]) == (1, 2, 3e-4), "the run's own"
    choices = json.loads(out.read_text())["choices"]
    made = [(each["kind"], each["context"], each["fine_tune"]) for each in choices]
    assert made == [("regress", 2, 0), ("regress", 2, 1), ("classify", 2, 0), ("classify", 2, 1)]
    untouched = [each["report"]["idm"] for each in choices if each["fine_tune"] == 0]
    assert all(each == untouched[0] for each in untouched)
    assert choices[1]["report"]["idm"]["next_frame_error"] != untouched[0]["next_frame_error"]
    answers = [each["report"]["adapter"]["next_frame_error"] for each in choices if each["fine_tune"] == 0]
    assert len({tuple(each) for each in answers}) == 2
    assert all(each["fit"]["steps"] == 4.0 for each in choices)
    shown = capsys.readouterr().out.splitlines()
    assert len([line for line in shown if " as it was " in line and line.count("IDM codes ") == 1]) == 1
    assert len([line for line in shown if line.startswith("classify, 2 frames") and "adapter's codes " in line]) == 2


@pytest.mark.parametrize(("context", "layers"), [(0, 2), (2, PRESETS["nano"].adapter["depth"])])
@pytest.mark.parametrize("kind", ["regress", "nearest", "classify"])
def test_a_fresh_adapter_answers_in_its_kind(kind: str, context: int, layers: int):
    system = system_of()
    adapter = fresh_adapter(system, kind, context, snap=True, seed=1)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in adapter.mlp) == layers
    assert adapter.config.snap and adapter.config.context_frames == context
    wanted = sum(system.bottleneck.code_sizes) if kind == "classify" else system.bottleneck.dim
    assert adapter.mlp[-1].out_features == wanted
    other = fresh_adapter(system, kind, context, snap=True, seed=1)
    assert torch.equal(adapter.mlp[0].weight, other.mlp[0].weight)


def test_systems_and_data_that_do_not_fit_are_refused(recording: Path, tmp_path: Path, fake_recording: Write):
    save_system(system_of("real_actions"), tmp_path / "real")
    with pytest.raises(ValueError, match="real: recipe 'real_actions' at stage 'adapter' has no latent action model"):
        adapter_choices(tmp_path / "real", data=(recording,))
    save_system(system_of(), tmp_path / "cola")
    fake_recording(tmp_path / "large.hdf5", [1, 7, 17], frames=16, size=40)
    with pytest.raises(ValueError, match="height of the system is 32, of the data 40"):
        adapter_choices(tmp_path / "cola", data=(tmp_path / "large.hdf5",))
