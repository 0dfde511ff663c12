"""The folder of goal models: what goes in comes out, for the same codec alone, and damage is named."""

import json
import shutil

import pytest
import torch

from colaworld.adapters.goal_models import (
    DESCRIPTION,
    codec_digest,
    load_goal_models,
    read_description,
    save_goal_model,
)
from colaworld.models.codec import FrameCodec
from colaworld.models.goal_policy import GoalPolicy
from colaworld.models.goal_progress import GoalProgress
from colaworld.models.success_classifier import SuccessClassifier

SIZE = {"latent_channels": 4, "latent_height": 2, "latent_width": 2, "width": 4, "hidden": 8}


@pytest.fixture
def codec() -> FrameCodec:
    torch.manual_seed(0)
    return FrameCodec(height=16, width=16, channels=(8, 8), latent_channels=4).eval()


def test_what_was_saved_comes_back(codec, tmp_path) -> None:
    parts = {"progress": GoalProgress(**SIZE), "success": SuccessClassifier(**SIZE), "policy": GoalPolicy(**SIZE)}
    for name, part in parts.items():
        save_goal_model(tmp_path / "m", name, part, {"settings": {"seed": 3}}, codec_digest(codec))
    models = load_goal_models(tmp_path / "m", codec)
    now, goal = torch.randn(2, 5, 4, 2, 2)
    for name, part in parts.items():
        torch.testing.assert_close(models.part(name)(now, goal), part.eval()(now, goal))
        assert models.about[name] == {"settings": {"seed": 3}} and not models.part(name).training
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [DESCRIPTION, *sorted(parts)]


def test_a_part_can_be_missing_and_is_then_named(codec, tmp_path) -> None:
    save_goal_model(tmp_path, "policy", GoalPolicy(**SIZE), {}, codec_digest(codec))
    models = load_goal_models(tmp_path, codec)
    assert models.progress is None
    with pytest.raises(ValueError, match="no progress among the goal models; trained: policy"):
        models.part("progress")
    with pytest.raises(ValueError, match="unknown goal model 'motive'"):
        save_goal_model(tmp_path, "motive", GoalPolicy(**SIZE), {}, codec_digest(codec))
    with pytest.raises(FileNotFoundError, match="no goal models at .*nowhere"):
        load_goal_models(tmp_path / "nowhere", codec)


def test_another_codecs_latents_are_refused(codec, tmp_path) -> None:
    save_goal_model(tmp_path, "policy", GoalPolicy(**SIZE), {}, codec_digest(codec))
    with torch.no_grad():
        codec.latent_std.mul_(1.001)
    with pytest.raises(ValueError, match=f"{DESCRIPTION}: codec is .*, the system's is"):
        load_goal_models(tmp_path, codec)
    with pytest.raises(ValueError, match="codec is"):
        save_goal_model(tmp_path, "progress", GoalProgress(**SIZE), {}, codec_digest(codec))


def test_a_new_part_that_is_cut_off_leaves_no_half_named(codec, tmp_path, monkeypatch) -> None:
    digest = codec_digest(codec)
    save_goal_model(tmp_path, "policy", GoalPolicy(**SIZE), {"try": 1}, digest)
    save_goal_model(tmp_path, "progress", GoalProgress(**SIZE), {"try": 1}, digest)

    def cut_off(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: cut_off() if path.name == "policy" else None)
    with pytest.raises(KeyboardInterrupt):
        save_goal_model(tmp_path, "policy", GoalPolicy(**SIZE), {"try": 2}, digest)
    monkeypatch.undo()
    assert list(read_description(tmp_path, digest)) == ["progress"]
    save_goal_model(tmp_path, "policy", GoalPolicy(**SIZE), {"try": 2}, digest)
    assert load_goal_models(tmp_path, codec).about["policy"] == {"try": 2}


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda path: (path / DESCRIPTION).write_text("{"), ValueError, f"{DESCRIPTION}: not valid JSON"),
        (lambda path: (path / DESCRIPTION).write_text("[]"), ValueError, "format is 'list'"),
        (lambda path: edit(path, format=9), ValueError, "format is 9"),
        (lambda path: edit(path, parts={"motive": {}}), ValueError, "field 'parts' .*motive"),
        (lambda path: (path / "policy/config.json").unlink(), FileNotFoundError, "no file .*policy/config.json"),
        (lambda path: weights(path).write_bytes(b"12345678"), ValueError, "cannot be read as a GoalPolicy"),
    ],
)
def test_damage_is_named(codec, tmp_path, damage, error, words) -> None:
    save_goal_model(tmp_path, "policy", GoalPolicy(**SIZE), {}, codec_digest(codec))
    damage(tmp_path)
    with pytest.raises(error, match=words):
        load_goal_models(tmp_path, codec)


def edit(path, **changes) -> None:
    described = json.loads((path / DESCRIPTION).read_text())
    (path / DESCRIPTION).write_text(json.dumps({**described, **changes}))


def weights(path):
    return path / "policy" / "diffusion_pytorch_model.safetensors"
