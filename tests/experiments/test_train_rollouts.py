"""Training on rollouts: from recordings to a system that planning takes as it is, and what it is held to."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from colaworld.adapters.goal_models import codec_digest, save_goal_model
from colaworld.adapters.system import load_system, save_system, staged
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.planning_world import load_world
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.train_rollouts import RolloutTraining, train_rollouts
from colaworld.experiments.training import LoopConfig
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.flow import FlowConfig
from colaworld.models.goal_distance import GoalDistance
from colaworld.models.imagination import Imagination, given
from colaworld.models.rollout_model import RolloutConfig, RolloutModel
from colaworld.models.share import Share


def system(preset: str = "nano", *, size: int = 32, **flags):
    torch.manual_seed(0)
    made = build(
        PRESETS[preset], height=size, width=size, frame_skip=5, action_dim=7, render_profile="lite", clip=6, **flags
    )
    with torch.no_grad():
        for weight in [*made.video.parameters(), *made.conditioner.parameters()]:
            weight.add_(0.15 * torch.randn_like(weight))
    if made.inverse_dynamics is not None:
        made.model().latent_actions(torch.randn(8, 5, *made.codec.latent_shape))  # the first batch makes the codebook
    return made


def reader_of(made, seed: int = 1) -> GoalDistance:
    torch.manual_seed(seed)
    channels, height, width = made.codec.latent_shape
    return GoalDistance(latent_channels=channels, latent_height=height, latent_width=width, width=4, hidden=8)


@pytest.fixture
def made(tmp_path, fake_recording) -> RolloutTraining:
    """A system of random weights with a goal distance beside it, recordings, and the flags of a short training."""
    start = system()
    save_system(staged(start, "adapter"), tmp_path / "start" / "system")
    save_goal_model(tmp_path / "start" / "goal_models", "distance", reader_of(start), {}, codec_digest(start.codec))
    fake_recording(tmp_path / "data.hdf5", (0, 1, 2, 7, 17), frames=14, size=32)
    return RolloutTraining(
        run=tmp_path / "start",
        out=tmp_path / "held",
        data=(tmp_path / "data.hdf5",),
        rollout=RolloutConfig(horizon=3, objects=0.5),
        steps=4,
        batch_size=2,
        learning_rate=2e-3,
        shift=1,
        loop=LoopConfig(log_every=1, watch_every=4, ema_decay=0.5),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = load_system(folder / "system").parts()
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def test_what_comes_out_is_a_system_like_any_other(made, capsys):
    train_rollouts(made)
    assert "system: " in capsys.readouterr().out
    before, after = weights(made.run), weights(made.out)
    assert before.keys() == after.keys()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"video", "conditioner", "adapter"}
    assert load_system(made.out / "system").info == load_system(made.run / "system").info
    told = json.loads((made.out / "system" / "system.json").read_text())["rollouts"]
    assert (told["horizon"], told["gripper"], told["objects"], told["steps"]) == (3, 0.5, 0.5, 4)
    assert told["start"] == load_world(made.run).checkpoint and len(told["reader"]) == 64
    world = load_world(made.out).world
    start = world.start(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 7))
    assert world.imagine(start, torch.zeros(3, 2, 7), None).isfinite().all()


def test_it_is_kept_rounded_where_asked(made):
    train_rollouts(made)
    train_rollouts(rounded := replace(made, out=made.out.with_name("rounded"), stored_as="bfloat16"))
    for key, value in weights(made.out).items():
        assert torch.equal(weights(rounded.out)[key], value.bfloat16().float() if value.is_floating_point() else value)
    assert "rollouts" in json.loads((rounded.out / "system" / "system.json").read_text())


class Killed(Exception):
    """Stands for a kill."""


def test_a_killed_run_goes_on_as_if_it_had_never_stopped(made, monkeypatch, capsys):
    train_rollouts(made)
    resumed = replace(made, out=made.out.with_name("resumed"))
    read = ClipDataset.__getitem__
    watched = sum(min(32, len(ClipDataset(made.data, length=6, split=split))) for split in ("train", "validation"))
    lives = [watched + 2 * 2 + 1]  # what is watched, then two steps and a half

    def mortal(self, index):
        lives[0] -= 1
        if lives[0] < 0:
            raise Killed
        return read(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(ClipDataset, "__getitem__", mortal)
        with pytest.raises(Killed):
            train_rollouts(replace(resumed, loop=replace(made.loop, checkpoint_seconds=0.0)))
    assert 1 <= json.loads((resumed.out / "checkpoint" / "progress.json").read_text())["step"] <= 3
    train_rollouts(resumed)
    for key, value in weights(made.out).items():
        assert torch.equal(weights(resumed.out)[key], value), key


@pytest.mark.parametrize("preset", ["nano", "tiny_conv"])
def test_the_loss_is_that_of_frames_imagined_one_after_the_other(preset):
    made = system(preset, size=64 if preset == "tiny_conv" else 32)
    plain, reader = made.model(), reader_of(made)
    model = RolloutModel(plain, reader, RolloutConfig(horizon=3, gripper=0.0))
    clip = torch.randn(2, CONTEXT_FRAMES + 3, *made.codec.latent_shape)
    actions = torch.randn(2, CONTEXT_FRAMES + 2, made.conditioner.config.latent_action_dim)
    imagination = Imagination(plain.video, plain.conditioner, plain.flow)
    with torch.no_grad():
        state = imagination.start(clip[:, :CONTEXT_FRAMES], actions[:, : CONTEXT_FRAMES - 1])
        future = imagination.roll_out(state, given(actions[:, CONTEXT_FRAMES - 1 :]), 3)
    expected = (future - clip[:, CONTEXT_FRAMES:]).square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(model.rollout_losses(clip, actions), expected)
    read = RolloutModel(plain, reader, RolloutConfig(horizon=3, gripper=2.0))
    assert (read.rollout_losses(clip, actions) > expected).all()
    perfect = torch.cat([clip[:, :CONTEXT_FRAMES], future], dim=1)
    torch.testing.assert_close(read.rollout_losses(perfect, actions), torch.zeros(2), atol=1e-6, rtol=0)


def test_the_gradient_goes_through_all_steps_to_the_first_action():
    made, found = system(), {}
    clip = torch.randn(2, CONTEXT_FRAMES + 3, *made.codec.latent_shape)
    drawn = torch.randn(2, CONTEXT_FRAMES + 2, made.conditioner.config.latent_action_dim)
    for gripper in (0.0, 5.0):
        model = RolloutModel(made.model(), reader_of(made), RolloutConfig(horizon=3, gripper=gripper))
        actions = drawn.clone().requires_grad_()
        model.rollout_losses(clip, actions).sum().backward()
        found[gripper] = actions.grad[:, CONTEXT_FRAMES - 1 :]
        assert (found[gripper].abs().sum(dim=(0, 2)) > 0).all()
    assert not torch.allclose(found[0.0], found[5.0]), "what is read teaches too"
    assert not any(weight.requires_grad for weight in model._reader[0].parameters())
    assert all("reader" not in name for name, _ in model.named_parameters())


def test_a_gripper_in_another_place_costs_though_the_latents_err_alike():
    made = system()
    reader = reader_of(made)

    class Places(GoalDistance):
        """The gripper is where the first number of the latent says."""

        def gripper(self, frames):
            place = frames.flatten(1)[:, :1].expand(-1, 3)
            return place, torch.ones_like(place)

    reader.__class__ = Places
    model = RolloutModel(made.model(), reader, RolloutConfig(horizon=1, gripper=1.0))
    plain = RolloutModel(made.model(), None, RolloutConfig(horizon=1, gripper=0.0))
    clip = torch.randn(1, CONTEXT_FRAMES + 1, *made.codec.latent_shape)
    actions = torch.randn(1, CONTEXT_FRAMES, made.conditioner.config.latent_action_dim)
    with torch.no_grad():
        imagination = Imagination(model.video, model.conditioner, model.flow)
        state = imagination.start(clip[:, :CONTEXT_FRAMES], actions[:, : CONTEXT_FRAMES - 1])
        future = imagination.roll_out(state, given(actions[:, CONTEXT_FRAMES - 1 :]), 1)[:, 0]
        told = []
        for place in (0, 1):  # an error of the same size, where the reader looks and where it does not
            wrong = future.clone().flatten(1)
            wrong[:, place] += 0.3
            there = torch.cat([clip[:, :CONTEXT_FRAMES], wrong.view_as(future)[:, None]], dim=1)
            told.append((model.rollout_losses(there, actions), plain.rollout_losses(there, actions)))
    torch.testing.assert_close(told[0][1], told[1][1])
    torch.testing.assert_close(told[1][0], told[1][1])
    assert told[0][0] > 2 * told[0][1]


def test_parts_of_a_batch_roll_out_the_same_window():
    made = system()
    model = RolloutModel(made.model(), None, RolloutConfig(horizon=2, gripper=0.0)).train()
    latents = torch.randn(4, 6, *made.codec.latent_shape)
    actions = torch.randn(4, 5, made.conditioner.config.latent_action_dim)
    for seed in range(5):
        whole = model.clip_flow_loss(latents, actions, torch.Generator().manual_seed(seed))
        parts = [
            model.clip_flow_loss(
                latents.chunk(2)[part],
                actions.chunk(2)[part],
                Share(generator=torch.Generator().manual_seed(seed), part=part, parts=2),
            )
            for part in (0, 1)
        ]
        torch.testing.assert_close(sum(parts) / 2, whole)


def test_clips_with_an_unknown_action_do_not_count():
    made = system()
    model = RolloutModel(made.model(), None, RolloutConfig(horizon=3, gripper=0.0))
    clip = torch.randn(2, CONTEXT_FRAMES + 3, *made.codec.latent_shape)
    actions = torch.randn(2, CONTEXT_FRAMES + 2, made.conditioner.config.latent_action_dim)
    dropped = torch.zeros(2, CONTEXT_FRAMES + 2, dtype=torch.bool)
    dropped[1, 2] = True
    generator = torch.Generator().manual_seed(0)
    loss = model.clip_flow_loss(clip, actions, generator, dropped=dropped)
    torch.testing.assert_close(loss, model.rollout_losses(clip, actions)[0])
    assert model.clip_flow_loss(clip, actions, generator, dropped=torch.ones_like(dropped)) == 0
    model.eval()
    evaluated = model.clip_flow_loss(clip, actions, torch.Generator().manual_seed(0))
    usual = made.model().eval().clip_flow_loss(clip, actions, torch.Generator().manual_seed(0))
    torch.testing.assert_close(evaluated, usual)


def test_real_actions_too(made, tmp_path, capsys):
    start = system(recipe="real_actions")
    save_system(staged(start, "adapter"), tmp_path / "real" / "system")
    save_goal_model(tmp_path / "real" / "goal_models", "distance", reader_of(start), {}, codec_digest(start.codec))
    config = replace(made, run=tmp_path / "real", out=tmp_path / "real_held")
    train_rollouts(config)
    before, after = weights(config.run), weights(config.out)
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert {"video", "conditioner", "adapter"} <= moved and "codec" not in moved


def test_what_cannot_be_is_named(made, tmp_path, fake_recording, capsys):
    train_rollouts(made)
    with pytest.raises(ValueError, match=re.escape("rollouts.json: this run was started with steps=4, not 5")):
        train_rollouts(replace(made, steps=5))
    with pytest.raises(ValueError, match="there is a system already, of another training"):
        train_rollouts(replace(made, out=made.run))
    with pytest.raises(ValueError, match="--loop.compile speeds up nothing"):
        replace(made, loop=replace(made.loop, compile=True))
    with pytest.raises(ValueError, match="this flow starts from noise"):
        noisy = system(flow=FlowConfig(source="noise", mean_fraction=0.0))
        RolloutModel(noisy.model(), None, RolloutConfig(gripper=0.0))
    with pytest.raises(ValueError, match="--rollout.horizon 5: with 2 frames of context it is longer than the clips of"):
        train_rollouts(replace(made, rollout=RolloutConfig(horizon=5), out=tmp_path / "long"))
    half = staged(load_system(made.run / "system"), "joint")
    save_system(half, tmp_path / "half")
    with pytest.raises(ValueError, match="trained to stage 'joint'"):
        train_rollouts(replace(made, run=tmp_path / "half", out=tmp_path / "from_half"))
    save_system(load_system(made.run / "system"), tmp_path / "alone" / "system")
    with pytest.raises(ValueError, match="there are no goal models beside --run"):
        train_rollouts(replace(made, run=tmp_path / "alone", out=tmp_path / "unread"))
    unread = replace(made, run=tmp_path / "alone", out=tmp_path / "unread", rollout=RolloutConfig(horizon=3, gripper=0))
    train_rollouts(unread)
    assert json.loads((tmp_path / "unread" / "system" / "system.json").read_text())["rollouts"]["reader"] is None
    fake_recording(tmp_path / "large.hdf5", (0, 7), frames=14, size=40)
    with pytest.raises(ValueError, match="height is 32, but the data say 40"):
        train_rollouts(replace(made, data=(tmp_path / "large.hdf5",), out=tmp_path / "large"))
    with pytest.raises(ValueError, match="horizon must be 1 or more, got 0"):
        RolloutConfig(horizon=0)
    with pytest.raises(ValueError, match="gripper must be 0 or more, got -1"):
        RolloutConfig(gripper=-1.0)
    with pytest.raises(ValueError, match="judged by a goal distance, and there is none"):
        RolloutModel(system().model(), None, RolloutConfig())
