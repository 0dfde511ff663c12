"""The adapter's own fit on tabulated transitions, and the packing of weights."""

import numpy as np
import pytest
import torch

from colaworld.adapters.system import load_system, save_system, staged
from colaworld.envs.demos import Episode
from colaworld.experiments import package_weights
from colaworld.experiments.adapter_fit import AdapterFitConfig, fit_adapter, tabulate
from colaworld.experiments.presets import PRESETS, build


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


def fresh_system():
    torch.manual_seed(0)
    system = build(PRESETS["nano"], height=32, width=32, frame_skip=5, action_dim=7, render_profile="lite")
    system.model().latent_actions(torch.randn(4, 9, 4, 4, 4))  # k-means over a first batch
    for part in system.parts().values():
        part.eval()
    return system


def test_the_table_is_what_the_latent_action_model_says():
    system, played = fresh_system(), episodes()
    table = tabulate(system, played)
    assert len(table.actions) == len(table.indices) == len(table.latents) == 3 * 8
    latents = system.codec.encode(torch.from_numpy(played[1].frames))[None]
    torch.testing.assert_close(table.latents[8:16], system.model().latent_actions(latents).latents[0])
    # Row k of an episode has the two frames up to k as context.
    torch.testing.assert_close(table.context[8 + 3], latents[0, 2:4])


def test_the_fit_learns_and_follows_its_seed():
    played, results = episodes(), []
    for steps in (0, 200, 200):
        system = fresh_system()
        results.append(fit_adapter(system, played, played, AdapterFitConfig(steps=steps, batch_size=32), seed=0))
    assert results[1]["adapter_cross_entropy"] < 0.7 * results[0]["adapter_cross_entropy"]
    assert results[1] == results[2]


def test_a_fit_on_actions_that_are_no_numbers_stops():
    played = episodes()
    played[0].actions[2, 1, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="adapter's fit is nan at step 0"):
        fit_adapter(fresh_system(), played, played, AdapterFitConfig(steps=3, batch_size=32), seed=0)


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


def test_an_empty_batch_is_named():
    with pytest.raises(ValueError, match="batch_size >= 1, got 10, 0"):
        AdapterFitConfig(steps=10, batch_size=0)
