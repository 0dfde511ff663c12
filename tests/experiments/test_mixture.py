"""Batches mixed from several data sets by weight: expected shares, one law for steps, refused weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from colaworld.envs.demos import ClipDataset
from colaworld.experiments import training
from colaworld.experiments.batch_parts import Part
from colaworld.experiments.batches import Batch, StepBatches, fixed_batch
from colaworld.experiments.mixture import Mixture, check_shares
from colaworld.experiments.recipes import Turn
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.train_config import TrainConfig, binding_flags, check_same_run, remember_run
from colaworld.experiments.training import Data
from colaworld.experiments.turn_start import Labels
from colaworld.models.share import Share


@pytest.fixture
def data(tmp_path: Path, fake_recording) -> tuple[Path, Path, Path]:
    """Three recordings of 40, 8 and 3 training clips of 3 frames, and more."""
    for name, seeds, frames in (("a", range(0, 7), 9), ("b", range(10, 14), 5), ("c", (20,), 5)):
        fake_recording(tmp_path / f"{name}.hdf5", seeds, frames=frames)
    return tuple(tmp_path / f"{name}.hdf5" for name in "abc")


@pytest.fixture
def clips(data: tuple[Path, ...]) -> ClipDataset:
    return ClipDataset(data, length=3)


def batches(clips: ClipDataset, weights: tuple[float, ...], *, start: int = 0, stop: int = 200, half_of=None):
    drawn = StepBatches(
        len(clips), 10, seed=0, stage="joint", start=start, stop=stop, half_of=half_of,
        mixture=Mixture.of(clips, weights),
    )  # fmt: skip
    return list(drawn)


def origins(clips: ClipDataset, batch: list[int]) -> np.ndarray:
    """How many clips of a batch each data set has."""
    numbers = clips.clips_by_origin()
    return np.array([np.isin(batch, each).sum() for each in numbers])


def test_every_batch_has_its_share_of_each_data_set(clips: ClipDataset) -> None:
    counts = np.array([origins(clips, batch) for batch in batches(clips, (3, 1, 0))])
    assert set(counts.sum(axis=1)) == {10} and not counts[:, 2].any()
    assert set(counts[:, 0]) == {7, 8} and set(counts[:, 1]) == {2, 3}
    assert counts[:, 0].mean() == pytest.approx(7.5, abs=0.1)


def test_the_clips_of_a_data_set_are_drawn_alike_and_in_no_order(clips: ClipDataset) -> None:
    drawn = np.array(batches(clips, (1, 1, 2), stop=3000))
    for numbers in clips.clips_by_origin():
        counts = (drawn.ravel()[:, None] == numbers).sum(axis=0)
        expected = counts.sum() / len(numbers)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert chi_square < len(numbers) - 1 + 5 * np.sqrt(2 * len(numbers)) and expected > 50
    last = clips.clips_by_origin()[2]
    places = np.isin(drawn, last).mean(axis=0)
    assert np.abs(places - 0.5).max() < 0.06  # whatever part of a batch a process has


def test_a_step_draws_the_same_whenever_it_is_reached(clips: ClipDataset) -> None:
    whole = batches(clips, (3, 1, 1), stop=9)
    assert whole[5:] == batches(clips, (3, 1, 1), start=5, stop=9)
    assert whole == batches(clips, (6, 2, 2), stop=9) != batches(clips, (3, 1, 2), stop=9)


def test_without_weights_batches_are_what_they_were(clips: ClipDataset) -> None:
    assert Mixture.of(clips, ()) is None
    expected = [[45, 1, 42, 32], [6, 43, 9, 10]]  # recorded before there were weights
    assert list(StepBatches(50, 4, seed=0, stage="joint", start=0, stop=2)) == expected


def test_half_a_batch_from_known_clips_has_the_same_shares(clips: ClipDataset) -> None:
    known = [number for origin in clips.clips_by_origin()[:2] for number in origin[::2]]
    for batch in batches(clips, (1, 1, 3), half_of=known, stop=50):
        assert set(batch[:5]) <= set(known)
        assert set(origins(clips, batch[:5])[:2]) == {2, 3}
        assert origins(clips, batch[5:])[2] == 3
    with pytest.raises(ValueError, match="--weights: none of the clips whose actions are known"):
        batches(clips, (0, 0, 1), half_of=known)


def test_data_sets_of_which_nothing_is_known_leave_their_share(data: tuple[Path, ...], clips: ClipDataset) -> None:
    labels = Labels.of(TrainConfig(data=data, weights=(1, 1, 2), label_fraction=0.5), clips)
    known = labels.known.only([each for each in labels.known.episodes if each.origin != 0])
    drawn = Mixture.of(known, (1, 1, 2)).draw(np.random.default_rng(0), 30)
    assert origins(known, drawn).tolist() == [0, 10, 20]
    with pytest.raises(ValueError, match="--weights 1 0 0: no clip is left to draw from"):
        Mixture.of(known, (1, 0, 0))


def test_labelled_and_watched_clips_have_the_same_shares(clips: ClipDataset, monkeypatch) -> None:
    weights, seen = (3, 0, 1), []
    watched = Mixture.of(clips, weights)
    monkeypatch.setattr(clips.__class__, "__getitem__", lambda self, index: seen.append(index))
    monkeypatch.setattr("colaworld.experiments.batches.collate", lambda clips: clips)
    fixed_batch(clips, 20, 1, watched)
    assert origins(clips, seen).tolist() == [15, 0, 5]
    data = Data(train=clips, watched_train=None, held_out=None, labelled=clips, weights=weights)
    config, drawn = StageConfig(steps=1, batch_size=16, action_weight=1.0), []
    turn = Turn(stage="joint", trained=("inverse_dynamics",))
    batch = Batch(*(torch.zeros(1),) * 3)
    monkeypatch.setattr("colaworld.experiments.training.collate", lambda clips: batch)
    for part in (0, 1):
        seen.clear()
        share = Share(generator=torch.Generator(), part=part, parts=2)
        training._labelled(data, turn, config, 5, Part(batch=batch, chance=share))
        drawn.append(list(seen))
    seen.clear()
    training._labelled(data, turn, config, 5, Part(batch=batch, chance=replace(share, part=0, parts=1)))
    assert drawn[0] + drawn[1] == seen and origins(clips, seen).tolist() == [6, 0, 2]


def test_bad_weights_are_named(data: tuple[Path, ...], clips: ClipDataset) -> None:
    for weights, sentence in (
        ((1, 2), "--weights 1 2: 2 numbers for 3 data sets in --data"),
        ((1, -2, 0.5), "--weights 1 -2 0.5: -2 is no share"),
        ((1, float("nan"), 1), "--weights 1 nan 1: nan is no share"),
        ((0, 0, 0), "--weights 0 0 0: one must be above 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            TrainConfig(data=data, weights=weights)
    with pytest.raises(ValueError, match="1 2: 2 numbers for 1 data sets"):
        TrainConfig(weights=(1, 2))
    longer = ClipDataset(data, length=7)
    with pytest.raises(ValueError, match=r"--weights 2: .*b.hdf5 has no training clip of 7 frames"):
        check_shares(longer, (1, 2, 0))
    check_shares(longer, (1, 0, 0))
    check_shares(clips, (1, 1, 1))


def test_weights_belong_to_the_run_and_older_runs_had_none(tmp_path: Path) -> None:
    config = TrainConfig(out=tmp_path, preset="nano")
    remember_run(config)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('  "weights": [],\n', ""))
    assert (tmp_path / "config.json").read_text() != text
    check_same_run(config)
    with pytest.raises(ValueError, match=r"weights=\[\], not \[1"):
        check_same_run(replace(config, weights=(1.0,)))
    streamed = replace(config, source=replace(config.source, stream=True))
    assert binding_flags(streamed) == binding_flags(config)
