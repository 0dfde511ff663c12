"""The adapter's own fit on tabulated transitions, and the packing of weights."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from colaworld.adapters.action_adapter import ActionAdapter
from colaworld.adapters.goal_models import codec_digest, load_goal_models, save_goal_model
from colaworld.adapters.system import ColaSystem, load_system, save_system, staged
from colaworld.envs.demos import Episode
from colaworld.experiments import package_weights
from colaworld.experiments.adapter_fit import (
    AdapterFitConfig,
    best_row,
    fit_adapter,
    held_out_metrics,
    start_constant,
    tabulate,
)
from colaworld.experiments.further_training import sign
from colaworld.experiments.labels import labelled, withhold_labels
from colaworld.experiments.presets import PRESETS, build
from colaworld.models.bottleneck import Bottleneck
from colaworld.models.goal_distance import GoalDistance

KINDS = ("nearest", "regress", "classify")


def episodes(count: int = 3, frames: int = 9) -> list[Episode]:
    """A square that steps by its actions."""
    made = []
    for seed in range(count):
        draw = np.random.default_rng(seed)
        moves = draw.choice([-1.0, 1.0], size=(frames - 1, 1))
        places = np.clip(16 + 4 * np.concatenate([[[0.0]], moves.cumsum(axis=0)]), 4, 28).astype(int)
        pictures = np.full((frames, 3, 32, 32), 60, np.uint8)
        for picture, (x,) in zip(pictures, places, strict=True):
            picture[:, 10:22, x - 4 : x + 4] = 230
        actions = np.zeros((frames - 1, 5, 7), np.float32)
        actions[:, :, 0] = moves
        made.append(
            Episode(
                frames=pictures,
                actions=actions,
                ee_pos=np.zeros((frames, 3), np.float32),
                object_pos=np.zeros((frames, 0, 3), np.float32),
                object_names=(),
                seed=seed,
                kind="play",
                split="train",
                scene="squares",
                demo=f"demo_{seed}",
            )
        )
    return made


def fresh_system(kind: str = "nearest") -> ColaSystem:
    torch.manual_seed(0)
    system = build(PRESETS["nano"], height=32, width=32, frame_skip=5, action_dim=7, render_profile="lite")
    system.model().latent_actions(torch.randn(4, 9, 4, 4, 4))  # k-means over a first batch
    seen = system.codec.encode(torch.from_numpy(np.stack([each.frames for each in episodes(12)])))
    system.bottleneck.recalibrate(system.inverse_dynamics(seen))
    if kind != "nearest":
        sizes = system.bottleneck.code_sizes if kind == "classify" else ()
        made = {"kind": kind, "code_sizes": sizes}
        system.adapter = ActionAdapter(**{**made_with(system.adapter), **made})
    for part in system.parts().values():
        part.eval()
    return system


def made_with(adapter: ActionAdapter) -> dict:
    return {name: value for name, value in adapter.config.items() if not name.startswith("_")}


def test_the_table_is_what_the_latent_action_model_says():
    system, played = fresh_system(), episodes()
    table = tabulate(system, played)
    assert len(table.actions) == len(table.indices) == len(table.latents) == 3 * 8
    latents = system.codec.encode(torch.from_numpy(played[1].frames))[None]
    torch.testing.assert_close(table.latents[8:16], system.model().latent_actions(latents).latents[0])
    # Row k of an episode has the two frames up to k as context.
    torch.testing.assert_close(table.context[8 + 3], latents[0, 2:4])


def test_the_fit_learns_and_follows_its_seed():
    played, results = episodes(8), []
    for steps in (0, 100, 100):
        config = AdapterFitConfig(steps=steps, batch_size=32, learning_rate=3e-3)
        results.append(fit_adapter(fresh_system(), played, played, config, seed=0))
    assert results[1]["adapter_cross_entropy"] < 0.7 * results[0]["adapter_cross_entropy"]
    assert results[1] == results[2]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_beats_the_constant_and_compares(kind):
    played, config = episodes(28), AdapterFitConfig(steps=200, batch_size=64, learning_rate=3e-3)
    fitted = fit_adapter(fresh_system(kind), played[:24], played[24:], config, seed=0)
    assert fitted["steps"] > 0
    assert fitted["adapter_accuracy"] > 0.8 > fitted["adapter_majority"] + 0.2
    assert fitted["adapter_relative_error_snapped"] < 0.5
    if kind != "nearest":  # whose point between the codes is taught directions, not distances
        assert fitted["adapter_relative_error"] < 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_few_labels_that_say_nothing_make_nothing_worse(kind):
    def noise(count: int, seed: int) -> list[Episode]:
        draw = np.random.default_rng(seed)
        return [
            replace(each, frames=draw.integers(0, 256, each.frames.shape, dtype=np.uint8)) for each in episodes(count)
        ]

    train, held_out, results = noise(6, 1), noise(12, 2), []
    for validation in (0.0, 0.1):
        config = AdapterFitConfig(steps=150, batch_size=32, learning_rate=1e-2, validation=validation)
        results.append(fit_adapter(fresh_system(kind), train, held_out, config, seed=0))
    learned_by_heart, chosen = results
    loss = {"regress": "adapter_error", "classify": "adapter_cross_entropy"}.get(kind, "adapter_relative_error_snapped")
    system = fresh_system(kind)
    start_constant(system, tabulate(system, train))
    constant = held_out_metrics(system, tabulate(system, train), tabulate(system, held_out))
    assert chosen[loss] < 1.02 * constant[loss] < learned_by_heart[loss]


@pytest.mark.parametrize("kind", KINDS)
def test_the_fit_starts_at_the_best_constant(kind):
    system = fresh_system(kind)
    table = tabulate(system, episodes(6))
    start_constant(system, table)
    answers = table.answer(system, torch.arange(len(table.actions)))[0]
    assert torch.equal(answers, answers[:1].expand_as(answers))
    if kind != "classify":
        torch.testing.assert_close(answers[0], table.latents.mean(dim=0))
        return
    for token, logits in enumerate(answers[0].view(2, 8)):
        counts = table.indices[:, token].bincount(minlength=8) + 1.0
        torch.testing.assert_close(logits.exp(), counts / counts.sum())


def test_the_best_number_of_steps_is_taken_only_where_it_is_surely_better_than_none():
    constant = np.array([3.0, 4.0, 5.0, 4.0])
    surely, perhaps = constant - [0.4, 0.5, 0.6, 0.5], constant - [4.0, -1.0, 0.5, -0.5]
    assert best_row(np.stack([constant, surely, constant + 1.0])) == 1
    assert best_row(np.stack([constant, perhaps, constant + 1.0])) == 0
    assert best_row(np.stack([constant, constant + 1.0])) == 0
    assert best_row(np.array([[2.0], [1.0]])) == 0


def test_only_labelled_transitions_are_learned_from():
    train, held_out = episodes(6), episodes(8)[6:]
    few = withhold_labels(train, 0.5, seed=0)
    labelled(few)[0].actions[3:5] = np.nan  # some steps of a trajectory may be unknown, too
    system = fresh_system()
    table = tabulate(system, few)
    assert len(table.actions) == len(table.latents) == len(table.context) == 3 * 8 - 2
    assert table.actions.isfinite().all() and table.trajectory.unique().tolist() == [0, 1, 2]
    config = AdapterFitConfig(steps=20, batch_size=16)
    results = []
    for train_on in (few, labelled(few)):
        system = fresh_system()
        results.append((fit_adapter(system, train_on, held_out, config, seed=0), system.adapter.state_dict()))
    (fitted, weights), (same, same_weights) = results
    assert fitted == same and all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert all(value.isfinite().all() for value in weights.values())
    flat = table.actions.reshape(-1, 7)
    torch.testing.assert_close(weights["action_mean"], flat.mean(dim=0))
    assert all(np.isfinite(list(fitted.values())))


def test_one_labelled_trajectory_is_fitted_without_harm():
    played = episodes(4)
    fitted = fit_adapter(
        fresh_system("regress"), played[:1], played[1:], AdapterFitConfig(steps=100, batch_size=16), seed=0
    )
    assert fitted["adapter_relative_error"] < 1.1
    single = [replace(played[0], frames=played[0].frames[:2], actions=played[0].actions[:1])]
    config = AdapterFitConfig(steps=10, batch_size=16)
    assert fit_adapter(fresh_system("regress"), single, played[1:], config, seed=0)["steps"] == 0


def test_labels_that_are_missing_or_damaged_are_named():
    played, config = episodes(), AdapterFitConfig(steps=3, batch_size=32)
    unknown = [replace(each, actions=np.full_like(each.actions, np.nan)) for each in played]
    with pytest.raises(ValueError, match="none of 3 trajectories has any"):
        fit_adapter(fresh_system(), unknown, played, config, seed=0)
    played[0].actions[2, 1, 3] = float("nan")
    with pytest.raises(ValueError, match="step 2 of demo_0 in squares is not finite"):
        fit_adapter(fresh_system(), played, episodes(), config, seed=0)


def test_a_fit_that_runs_away_stops():
    config = AdapterFitConfig(steps=50, batch_size=32, learning_rate=1e30, validation=0.0)
    with pytest.raises(FloatingPointError, match="adapter's fit is (nan|inf) at step"):
        fit_adapter(fresh_system(), episodes(), episodes(), config, seed=0)


def test_an_adapter_of_codes_for_a_bottleneck_without_any_is_refused():
    system = fresh_system()
    system.bottleneck = Bottleneck(kind="continuous", width=8)
    with pytest.raises(ValueError, match="no codes"):
        fit_adapter(system, episodes(), episodes(), AdapterFitConfig(steps=3), seed=0)


def test_packing_shares_the_codec_and_refuses_what_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(package_weights, "weights_path", lambda preset, name: tmp_path / "weights" / name)
    system = fresh_system()
    save_system(staged(system, "pretrain"), tmp_path / "free")
    save_system(staged(system, "adapter"), tmp_path / "whole")
    pack = package_weights.package_weights
    with pytest.raises(ValueError, match="expected stages 'pretrain' and 'adapter', got 'adapter' and 'pretrain'"):
        pack(pretrained=tmp_path / "whole", cola=tmp_path / "free")
    with pytest.raises(ValueError, match="more than 0.001 MiB"):
        pack(pretrained=tmp_path / "free", cola=tmp_path / "whole", limit_mib=0.001)
    assert not (tmp_path / "weights").exists()
    pack(pretrained=tmp_path / "free", cola=tmp_path / "whole")
    assert sorted(load_system(tmp_path / "weights" / "pretrained").parts()) == ["codec", "video"]
    assert not (tmp_path / "weights" / "cola" / "codec").exists()
    assert load_system(tmp_path / "weights" / "cola").adapter is not None
    sign(tmp_path / "whole", {"horizon": 5}, "rollouts")
    pack(pretrained=tmp_path / "free", cola=tmp_path / "whole")
    assert json.loads((tmp_path / "weights" / "cola" / "system.json").read_text())["rollouts"] == {"horizon": 5}


def test_packing_takes_the_goal_models_of_several_folders_along(tmp_path, monkeypatch):
    monkeypatch.setattr(package_weights, "weights_path", lambda preset, name: tmp_path / "weights" / name)
    system = fresh_system()
    channels, rows, columns = system.codec.latent_shape
    sizes = {"latent_channels": channels, "latent_height": rows, "latent_width": columns}
    judge = GoalDistance(width=8, hidden=8, **sizes)
    for stage in ("pretrain", "adapter"):
        save_system(staged(system, stage), tmp_path / stage, dtype=torch.bfloat16)
    rounded, unrounded = codec_digest(load_system(tmp_path / "adapter").codec), codec_digest(system.codec)
    for folder, codec in (("near", rounded), ("far", rounded), ("unrounded", unrounded)):
        save_goal_model(tmp_path / folder, "distance", judge, {"steps": 3}, codec)
    pack = partial(package_weights.package_weights, pretrained=tmp_path / "pretrain", cola=tmp_path / "adapter")
    for folders, words in ((("near", "far"), "far: another folder has the goal model 'distance' too"),
                           (("unrounded",), "codec is .* the system's is")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            pack(goal_models=tuple(tmp_path / name for name in folders))
    assert not (tmp_path / "weights").exists()
    pack(goal_models=(tmp_path / "near",))
    shipped = load_goal_models(tmp_path / "weights" / "goal_models", load_system(tmp_path / "weights" / "cola").codec)
    assert shipped.about == {"distance": {"steps": 3}}
    for name, value in judge.state_dict().items():
        assert torch.equal(shipped.distance.state_dict()[name], value.to(torch.bfloat16).float())


def test_an_empty_batch_is_named():
    with pytest.raises(ValueError, match="batch_size >= 1, got 10, 0"):
        AdapterFitConfig(steps=10, batch_size=0)
    with pytest.raises(ValueError, match=r"lie in \[0, 0.5\], got 0.7"):
        AdapterFitConfig(validation=0.7)
