"""The training loop on made-up clips: resume equals an unbroken run, stages train what they say, bad runs are refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from colaworld.adapters.system import load_system, save_system
from colaworld.envs.demos import Clip, Episode
from colaworld.experiments.batches import StepBatches, fixed_batch, frame_latents, random_shift
from colaworld.experiments.budget import read_costs
from colaworld.experiments.held_out import HeldOutConfig, compare, report_held_out
from colaworld.experiments.loader import WaitingTime
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.run_folder import read_progress
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.stages import StageModel
from colaworld.experiments.throughput import NAMES, Throughput, in_words
from colaworld.experiments.train_config import TrainConfig, check_same_run, remember_run
from colaworld.experiments.train_world_model import starting_system, train
from colaworld.experiments.training import Data, LoopConfig, compile_training, make_accelerator, train_stage
from colaworld.experiments.watch import displacement_r2

COLA = RECIPES["cola"]
LOOP = LoopConfig(log_every=1, watch_every=3, checkpoint_seconds=0.0)
STAGE = StageConfig(steps=6, batch_size=2, learning_rate_warmup=2, shift=1, imagined=0.5)


class Squares:
    """Clips of a bright square that its actions move: two pixels a step, left or right, up or down."""

    height = width = 32
    frame_skip, action_dim, render_profile = 5, 7, "lite"

    def __init__(self, episodes: int = 4, frames: int = 13, length: int = 13) -> None:
        self.length, self.episodes = length, [self._episode(seed, frames) for seed in range(episodes)]

    def _episode(self, seed: int, count: int) -> Episode:
        draw = np.random.default_rng(seed)
        moves = draw.choice([-1.0, 1.0], size=(count - 1, 2))
        places = np.clip(np.concatenate([[[16, 16]], 16 + 2 * moves.cumsum(axis=0)]), 4, 28)
        frames = np.full((count, 3, 32, 32), 60, np.uint8)
        for frame, (y, x) in zip(frames, places.astype(int), strict=True):
            frame[:, y - 3 : y + 3, x - 3 : x + 3] = 230
        actions = np.zeros((count - 1, 5, 7), np.float32)
        actions[:, :, :2] = moves[:, None]
        ee_pos = np.concatenate([places, np.zeros((count, 1))], axis=1).astype(np.float32) / 32
        return Episode(
            frames=frames, actions=actions, ee_pos=ee_pos, object_pos=np.zeros((count, 0, 3), np.float32),
            object_names=(), seed=seed, kind="play", split="train", scene="squares", demo=f"demo_{seed}",
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Clip:
        return self.episodes[index].clip(0, self.length)


def system_of(preset: str = "nano"):
    torch.manual_seed(0)
    return build(PRESETS[preset], height=32, width=32, frame_skip=5, action_dim=7, render_profile="lite")


def data_of(clips: Squares) -> Data:
    return Data(train=clips, watched_train=fixed_batch(clips, 4, seed=1), held_out=fixed_batch(clips, 4, seed=2))


def run(folder: Path, stage: str, clips: Squares, loop: LoopConfig = LOOP):
    folder.mkdir(exist_ok=True)
    accelerator = make_accelerator(folder, loop, [])
    return train_stage(accelerator, system_of(), stage, STAGE, loop, data_of(clips), folder, steps_before=0)


def logged(folder: Path) -> list[dict[str, float]]:
    """Everything in ``metrics.jsonl`` but how fast it went."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in NAMES} for line in lines]


class Killed(Exception):
    """Stands for a kill."""


class Mortal(Squares):
    """Dies when its ``lives``-th clip is read."""

    lives = 10**9

    def __getitem__(self, index: int) -> Clip:
        self.lives -= 1
        if self.lives < 0:
            raise Killed
        return super().__getitem__(index)


@pytest.mark.parametrize("stage", ["codec", "joint", "adapter"])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, stage):
    unbroken = run(tmp_path / "unbroken", stage, Squares())
    mortal = Mortal()
    data_of(mortal)
    mortal.lives = 8 + 2 * 4 + 1  # the watched batches, then four steps and a half
    with pytest.raises(Killed):
        run(tmp_path / "resumed", stage, mortal)
    progress = json.loads((tmp_path / "resumed" / "checkpoint" / "progress.json").read_text())
    assert progress["stage"] == stage and 1 <= progress["step"] <= 4
    resumed = run(tmp_path / "resumed", stage, Squares())
    for name, part in unbroken.parts().items():
        for key, value in part.state_dict().items():
            torch.testing.assert_close(
                resumed.parts()[name].state_dict()[key], value, rtol=0, atol=0, msg=f"{name}.{key}"
            )
    assert logged(tmp_path / "unbroken") == logged(tmp_path / "resumed")
    assert not (tmp_path / "resumed" / "checkpoint").exists()
    assert load_system(tmp_path / "resumed" / "system").info.stage == stage


class Remembering(Squares):
    """Each clip is brighter the more its reader, a worker or the loop itself, has read before."""

    read = 0

    def __getitem__(self, index: int) -> Clip:
        clip, self.read = super().__getitem__(index), self.read + 1
        return clip._replace(frames=clip.frames + np.uint8(self.read))

    def state_dict(self) -> dict[str, int]:
        return {"read": self.read}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.read = state["read"]


def killed(folder: Path, clips: Squares, loop: LoopConfig, step: int) -> None:
    """Ends a run in the middle of a step."""

    class Mortal(StageModel):
        def forward(self, batch, now, generator, labelled=None):
            if now == step:
                raise Killed
            return super().forward(batch, now, generator, labelled)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colaworld.experiments.training.StageModel", Mortal)
        with pytest.raises(Killed):
            run(folder, "codec", clips, loop)


def assert_equal(one, other) -> None:
    for name, part in one.parts().items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, other.parts()[name].state_dict()[key]), (name, key)


@pytest.mark.parametrize("workers", [0, 2])
def test_readers_go_on_where_they_stood_and_not_where_they_had_read_to(tmp_path, workers):
    loop = replace(LOOP, loader_workers=workers)
    unbroken = run(tmp_path / "unbroken", "codec", Remembering(), loop)
    killed(tmp_path / "resumed", Remembering(), loop, 3)
    assert_equal(unbroken, run(tmp_path / "resumed", "codec", Remembering(), loop))
    assert logged(tmp_path / "unbroken") == logged(tmp_path / "resumed")


def test_a_resumed_run_may_read_in_other_ways(tmp_path):
    unbroken = run(tmp_path / "unbroken", "codec", Squares())
    killed(tmp_path / "resumed", Squares(), replace(LOOP, loader_workers=2), 3)
    assert_equal(unbroken, run(tmp_path / "resumed", "codec", Squares()))


def test_how_fast_it_goes_is_written(tmp_path):
    run(tmp_path, "codec", Squares(), replace(LOOP, peak_of="a100"))
    lines = [line for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    cost = read_costs(tmp_path)["codec"]
    for line in lines:
        assert line["clips_per_second"] > 0.0 and 0.0 <= line["waiting_share"] < 1.0
        expected = line["clips_per_second"] * cost.flops / cost.samples / 19.5e12
        assert line["flops_utilisation"] == pytest.approx(expected)
    assert cost.clips_per_second == pytest.approx(cost.samples / cost.training_seconds)
    assert cost.training_seconds < cost.seconds and cost.waited < cost.training_seconds


def test_what_is_watched_takes_no_training_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("colaworld.experiments.throughput.time.monotonic", lambda: now[0])
    reading = WaitingTime([])
    speed = Throughput(reading, 4, lambda step: 10.0 * (1 + step), peak=100.0)
    for step in range(2):
        now[0], reading.seconds = now[0] + 2.0, reading.seconds + 0.5
        speed.step(step)
        with speed.aside():
            now[0] += 50.0
    expected = {"clips_per_second": 2.0, "waiting_share": 0.25, "flops_utilisation": 4 * (10 + 20) / 4.0 / 100}
    assert in_words(expected) == "2 clips/s, 30.0% of the peak, 25.0% of the time waiting for clips"
    assert speed.lately() == expected and speed.overall() == expected and speed.lately() == {}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "progress.json"])
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    mortal = Mortal()
    data_of(mortal)
    mortal.lives = 8 + 2 * 4 + 1
    with pytest.raises(Killed):
        run(tmp_path, "joint", mortal)
    damaged = tmp_path / "checkpoint" / name
    damaged.write_bytes(damaged.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"checkpoint.*cannot be read.*remove"):
        run(tmp_path, "joint", Squares())
    assert damaged.exists()


def test_a_run_that_was_killed_between_two_checkpoints_goes_on_from_the_older(tmp_path):
    killed(tmp_path, Squares(), LOOP, 2)
    before = read_progress(tmp_path)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert before.step > 0 and read_progress(tmp_path) == before
    assert (tmp_path / "checkpoint").is_dir() and not (tmp_path / "checkpoint.old").exists()


def test_a_run_of_a_preset_without_weights_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match="preset 'nano' ships no weights to start from: give --from-scratch"):
        starting_system(TrainConfig(out=tmp_path / "new", preset="nano"), Squares())


def test_a_checkpoint_of_shards_is_no_checkpoint_of_whole_weights(tmp_path):
    killed(tmp_path, Squares(), LOOP, 2)
    progress = tmp_path / "checkpoint" / "progress.json"
    progress.write_text(json.dumps(json.loads(progress.read_text()) | {"parallel": "fsdp"}))
    with pytest.raises(ValueError, match="checkpoint: was written with --loop.parallel fsdp, got ddp"):
        run(tmp_path, "codec", Squares())
    assert progress.is_file()


@pytest.mark.parametrize("stage", COLA.stages)
def test_a_stage_moves_its_own_parts_and_no_other(tmp_path, stage):
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in system_of().parts().items()}
    after = run(tmp_path, stage, Squares())
    for name, part in after.parts().items():
        trainable = dict(part.named_parameters())
        moved = any(
            not torch.equal(before[name][key], value) for key, value in part.state_dict().items() if key in trainable
        )
        # The codebook is filled by k-means when it first sees tokens, whoever trains.
        if name != "bottleneck":
            assert moved == (name in COLA.turn(stage).trained), name


def test_a_trained_bottleneck_standardises_by_many_clips_and_not_by_the_few_that_are_watched(tmp_path):
    clips = Squares(episodes=9)
    system = run(tmp_path, "joint", clips)  # four of the nine are watched
    frames = torch.stack([torch.from_numpy(each.frames) for each in clips.episodes])
    with torch.no_grad():
        raw = system.inverse_dynamics(frame_latents(system.codec, frames)).flatten(0, -2)
    torch.testing.assert_close(system.bottleneck.norm.running_mean, raw.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(system.bottleneck.norm.running_var, raw.var(dim=0), rtol=1e-3, atol=1e-6)


def test_logged_numbers(tmp_path):
    run(tmp_path, "joint", Squares())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    watched = lines[-1]
    for name in (
        "copy",
        "flow",
        "flow_shuffled",
        "flow_constant",
        "action_use",
        "displacement_r2",
        "utilisation_0",
        "entropy_1",
    ):
        assert np.isfinite(watched[f"held_out/{name}"])
    assert {"loss", "flow", "codebook", "commitment", "learning_rate"} <= set(lines[0])


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    class Broken(StageModel):
        def forward(self, batch, step, generator, labelled=None):
            loss, metrics = super().forward(batch, step, generator, labelled)
            return loss * (float("nan") if step == 3 else 1.0), metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colaworld.experiments.training.StageModel", Broken)
        with pytest.raises(FloatingPointError, match="stage joint is nan at step 3"):
            run(tmp_path, "joint", Squares())
    assert (tmp_path / "checkpoint" / "progress.json").is_file()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) >= 3


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_adapter_learns_through_the_world_model_only_when_asked(share):
    system = system_of()
    with torch.no_grad():
        for parameter in [*system.conditioner.parameters(), *system.video.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    system.bottleneck(torch.randn(4, 40, 16))
    model = StageModel(system, COLA.turn("adapter"), replace(STAGE, through_adapter=share, imagined=1.0))
    batch = fixed_batch(Squares(), 2, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colaworld.experiments.stages.adapter_loss", lambda *rest: (torch.zeros(()), {}))
        loss, _ = model(batch, 5, torch.Generator().manual_seed(0))
    loss.backward()
    reached = system.adapter.mlp[0].weight.grad
    assert (reached is not None and bool(reached.abs().max() > 0)) == (share > 0)


def test_batches_depend_on_the_step_alone():
    whole = list(StepBatches(100, 4, seed=0, stage="joint", start=0, stop=9))
    assert whole[5:] == list(StepBatches(100, 4, seed=0, stage="joint", start=5, stop=9))
    assert whole != list(StepBatches(100, 4, seed=1, stage="joint", start=0, stop=9))
    assert whole != list(StepBatches(100, 4, seed=0, stage="warmup", start=0, stop=9))


def test_processes_share_the_batches_of_one():
    whole = list(StepBatches(100, 4, seed=0, stage="joint", start=0, stop=9, half_of=[7, 8]))
    for parts in (2, 4):
        shares = [
            StepBatches(100, 4, seed=0, stage="joint", start=0, stop=9, half_of=[7, 8], part=part, parts=parts)
            for part in range(parts)
        ]
        assert [sum(pieces, []) for pieces in zip(*shares, strict=True)] == whole
    with pytest.raises(ValueError, match="4 clips has no part 0 of 3 equal ones"):
        StepBatches(100, 4, seed=0, stage="joint", start=0, stop=9, parts=3)


def test_a_loader_that_stood_elsewhere_is_refused():
    batches = StepBatches(100, 4, seed=0, stage="joint", start=3, stop=9)
    with pytest.raises(ValueError, match="stood at step 4, the run goes on from 3"):
        iter(batches).load_state_dict({"step": 4})


def test_a_clip_is_shifted_as_one():
    frames = torch.randint(0, 256, (3, 1, 3, 8, 8), dtype=torch.uint8).expand(-1, 4, -1, -1, -1)
    shifted = random_shift(frames, 2, torch.Generator().manual_seed(0))
    assert shifted.shape == frames.shape and shifted.dtype == torch.uint8
    assert (shifted == shifted[:, :1]).all()
    assert (shifted != frames).any()
    inner = {tuple(shifted[0, 0, 0, y : y + 4, x : x + 4].flatten().tolist()) for y in range(5) for x in range(5)}
    assert tuple(frames[0, 0, 0, 2:6, 2:6].flatten().tolist()) in inner


def test_displacement_r2_against_known_answers():
    features = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    linear = features @ torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    assert displacement_r2((features[:200], linear[:200]), (features[200:], linear[200:])) > 0.99
    high = 0.05 * linear + 100.0  # far from the origin for its spread, as the gripper's place in the world is
    assert displacement_r2((features[:200], high[:200]), (features[200:], high[200:])) > 0.99
    noise = torch.randn(400, 3, generator=torch.Generator().manual_seed(2))
    assert displacement_r2((features[:200], noise[:200]), (features[200:], noise[200:])) < 0.1


def test_held_out_errors_against_known_answers():
    truth = torch.zeros(4, 12, 3, 4, 4)
    truth[:, 2:, :, :2] = 1.0  # the upper half changes after the context
    half = truth.clone()
    half[:, 2:, :, :2] = 0.5
    copied = torch.zeros_like(truth)
    report = compare(truth, {"half": half, "half, shuffled": copied}, "abcd")
    for row in report["rows"]:
        assert row["error"] == pytest.approx(0.25 if row["variant"] == "half" else 1.0)
        assert row["reduction"] == pytest.approx(0.75 if row["variant"] == "half" else 0.0)
    assert report["rows"][0]["below_shuffled"][0] == pytest.approx(0.75)


def test_the_held_out_report_is_written(tmp_path, capsys):
    clips = Squares()
    system = run(tmp_path / "run", "adapter", clips)
    report_held_out(system, clips.episodes, HeldOutConfig(clips=4, strips=1), tmp_path / "held_out")
    report = json.loads((tmp_path / "held_out" / "held_out.json").read_text())
    assert {row["variant"] for row in report["rows"]} == {
        name + ending
        for name in ("IDM codes", "adapter", "adapter's codes")  # this adapter was made to answer between the codes
        for ending in ("", ", shuffled")
    }
    assert (tmp_path / "held_out" / "strip_0.png").stat().st_size > 0
    assert "below copy" in capsys.readouterr().out


def test_a_run_folder_belongs_to_one_set_of_flags(tmp_path):
    config = TrainConfig(out=tmp_path, preset="nano")
    check_same_run(config)
    remember_run(config)
    check_same_run(replace(config, trackers=()))
    with pytest.raises(ValueError, match="clip=12, not 9"):
        check_same_run(replace(config, clip=9))


def test_weights_of_another_preset_are_refused(tmp_path):
    run(tmp_path / "nano", "joint", Squares())
    with pytest.raises(ValueError, match="preset is 'nano', but .* 'tiny'"):
        starting_system(TrainConfig(out=tmp_path / "new", preset="tiny", init=tmp_path / "nano" / "system"), Squares())


@pytest.mark.parametrize("asked", [0.0, 0.2])
def test_a_run_s_codebook_replaces_unused_entries_when_asked(tmp_path, asked):
    config = TrainConfig(out=tmp_path, preset="nano", from_scratch=True, replace_unused=asked)
    system = starting_system(config, Squares())
    save_system(system, tmp_path / "system")
    for each in (system, load_system(tmp_path / "system")):
        assert each.bottleneck.config.replace_unused == asked


def test_a_codec_goes_on_from_another_presets_and_nothing_else_does(tmp_path):
    trained = run(tmp_path / "nano", "joint", Squares())
    flags = {"out": tmp_path / "new", "init": tmp_path / "nano" / "system", "stages": ("codec",)}
    narrow = replace(PRESETS["nano"], name="narrow", video={**PRESETS["nano"].video, "width": 16})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "narrow", narrow)
        begun = starting_system(TrainConfig(preset="narrow", **flags), Squares())
        with pytest.raises(ValueError, match="preset is 'nano'"):
            starting_system(TrainConfig(preset="narrow", **flags | {"stages": ("codec", "pretrain")}), Squares())
    assert (begun.info.preset, begun.info.stage) == ("narrow", "new") and begun.video.config.width == 16
    for key, value in trained.codec.state_dict().items():
        assert torch.equal(value, begun.codec.state_dict()[key]), key
    with pytest.raises(ValueError, match=r"channels of its codec is \[8, 8\]"):
        starting_system(TrainConfig(preset="tiny", **flags), Squares())


def test_a_stage_does_not_begin_before_its_turn(tmp_path):
    run(tmp_path / "nano", "pretrain", Squares())
    init = tmp_path / "nano" / "system"
    config = TrainConfig(out=tmp_path / "new", preset="nano", init=init, stages=("adapter",))
    with pytest.raises(ValueError, match="trained to stage 'pretrain', but stage 'adapter' of recipe 'cola' begins after 'joint'"):
        starting_system(config, Squares())


@pytest.mark.parametrize("recipe", ["cola", "two_stage", "real_actions"])
def test_latent_actions_are_not_begun_from_what_has_learned_some(tmp_path, recipe):
    run(tmp_path / "nano", "joint", Squares())
    init = tmp_path / "nano" / "system"
    config = TrainConfig(out=tmp_path / "new", preset="nano", init=init, recipe=recipe)
    with pytest.raises(ValueError, match="trained to stage 'joint' of recipe 'cola', and this run begins with"):
        starting_system(config, Squares())
    if recipe == "cola":
        assert starting_system(replace(config, stages=("joint",)), Squares()).info.stage == "joint"


def test_parts_of_another_kind_are_refused(tmp_path):
    run(tmp_path / "nano", "joint", Squares())
    init = tmp_path / "nano" / "system"
    config = TrainConfig(out=tmp_path / "new", preset="nano", init=init, history=1, stages=("joint",))
    with pytest.raises(ValueError, match="history of its inverse_dynamics is 0, but the flags of this run say 1"):
        starting_system(config, Squares())


def test_a_refused_run_leaves_its_folder_free(tmp_path):
    with pytest.raises(FileNotFoundError, match="no system at"):
        train(TrainConfig(out=tmp_path / "run", init=tmp_path / "nowhere"))
    assert not (tmp_path / "run").exists()


def test_bad_flags_are_named():
    with pytest.raises(ValueError, match="between 4 and 16 frames, got 3"):
        TrainConfig(clip=3)
    with pytest.raises(ValueError, match="batch_size >= 1, got 5 and 0"):
        StageConfig(steps=5, batch_size=0)
    with pytest.raises(ValueError, match="exclude each other"):
        TrainConfig(from_scratch=True, init=Path("x"))


def test_only_what_is_differentiated_runs_compiled(monkeypatch):
    system, calls = system_of(), []

    def fake(function, **_):
        return lambda *args, **kwargs: calls.append(1) or function(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", fake)
    clean, time = torch.randn(1, 3, *system.video.latent_shape), torch.rand(1, 3)
    plain = system.video.two_streams(clean, clean, time)
    compile_training(system.video)
    torch.testing.assert_close(system.video.two_streams(clean, clean, time), plain)
    assert len(calls) == 1
    with torch.no_grad():
        system.video.two_streams(clean, clean, time)
    assert len(calls) == 1
    assert not any("two_streams" in key for key in system.video.state_dict())
