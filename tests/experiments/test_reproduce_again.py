"""Evaluating finished cells again: exactly what is missing is measured, everything else stays as it was."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from colaworld.adapters.system import ColaSystem, save_system, staged
from colaworld.experiments import reproduce_again
from colaworld.experiments.evaluation import BEFORE, EvaluationConfig
from colaworld.experiments.held_out import HeldOutConfig
from colaworld.experiments.planning_check import PlanningCheckConfig
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.reproduce_again import ADDED, measured, reevaluate
from colaworld.experiments.reproduce_cells import SCALES, Cell
from colaworld.experiments.reproduce_runs import locked
from colaworld.experiments.reproduce_store import CellStore, StoredCell
from colaworld.experiments.reproduce_variants import VARIANTS
from colaworld.experiments.shared_stages import shared_folder
from colaworld.experiments.train_config import TrainConfig

COLA = Cell(variant=VARIANTS["cola"], seed=0)
BUDGET = {"seconds": {"warmup": 1.5}}
MEASURED = {"idm": {"use": 0.25}, "planning": {"cosine": [0.5]}, "codec": {"video": {"1": {"psnr": [30.0]}}}}


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    return CellStore(tmp_path / "cells", SCALES["tiny"], {"data": "d", "init": "i"})


@pytest.fixture
def has(store: CellStore, tmp_path: Path) -> Callable[..., StoredCell]:
    """``has("idm", "codec")``: the plain cell has run, its folder is there, and it has measured these."""

    def made(*keys: str, **other: Any) -> StoredCell:
        evaluation = {"budget": BUDGET, **{key: MEASURED[key] for key in keys}, **other}
        cell = StoredCell(
            cell=COLA.name,
            variant="cola",
            seed=0,
            identity=store.identity(COLA),
            status="finished",
            made_by={"revision": "first"},
            curves={"total_step": [1]},
            evaluation=evaluation,
        )
        store.write(cell)
        (tmp_path / "runs" / COLA.name / "system").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / COLA.name / "system" / "system.json").write_text("{}")
        said = {"format": 1, "recipe": "cola", "seed": 0, "budget": BUDGET}
        (tmp_path / "runs" / COLA.name / "evaluation.json").write_text(json.dumps(said))
        return cell

    return made


class Again:
    """``reevaluate`` with a stand-in that notes what it was asked for and measures other numbers than before."""

    def __init__(self, store: CellStore, runs: Path) -> None:
        self.store, self.runs = store, runs
        self.asked: list[tuple[str, ...] | None] = []
        self.seeds: list[int] = []
        self.said: list[str] = []

    def __call__(self, *, only_missing: bool) -> StoredCell:
        reevaluate(
            [COLA, Cell(variant=VARIANTS["fsq"], seed=0)],  # the second has not run
            self.store,
            self.runs,
            ("--evaluation.train-clips", "7"),
            only_missing=only_missing,
            ended=lambda stored, what: self.said.append(f"{stored.cell} {what}"),
            measure=self.measure,
        )
        return self.store.get(COLA)

    def measure(
        self, config: TrainConfig, system: ColaSystem, folder: Path, keys: Sequence[str] | None
    ) -> dict[str, Any]:
        assert system == "the system in system" and folder == config.out == self.runs / COLA.name
        assert config.warmup.steps == 200 and config.evaluation.train_clips == 7, "the cell's flags, and the paths"
        self.asked.append(None if keys is None else tuple(keys))
        return {key: {"again": 0.123456} for key in (MEASURED if keys is None else keys)}


@pytest.fixture
def again(store: CellStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Again:
    monkeypatch.setattr(reproduce_again, "load_system", lambda path: f"the system in {path.name}")
    return Again(store, tmp_path / "runs")


@pytest.mark.parametrize(
    ("present", "missing"),
    [(("idm",), ("planning", "codec")), (("idm", "planning"), ("codec",)), (("idm", "codec"), ("planning",))],
)
def test_only_what_is_missing_is_measured_and_the_rest_stays(has, again: Again, present, missing) -> None:
    before = has(*present)
    after = again(only_missing=True)
    assert again.asked == [missing] and again.said == [f"cola-s0 evaluated again: {', '.join(missing)}"]
    assert set(after.evaluation) == {*before.evaluation, *missing, "evaluated_by"}
    assert all(after.evaluation[key] == value for key, value in before.evaluation.items())
    assert all(after.evaluation[key] == {"again": 0.12346} for key in missing), "rounded as all numbers are"
    assert after.evaluation["evaluated_by"]["measured"] == sorted(missing)
    assert (after.made_by, after.curves, after.status) == (before.made_by, before.curves, before.status)
    again(only_missing=True)
    assert len(again.asked) == 1 and again.said[-1] == "cola-s0 lacks nothing"


def test_what_does_not_apply_is_not_missing(has, again: Again) -> None:
    """A system without an adapter has no plans: None was measured."""
    before = has("idm", "codec", planning=None)
    assert again(only_missing=True) == before and again.asked == [] and again.said == ["cola-s0 lacks nothing"]


def test_everything_is_measured_again_where_nothing_else_is_asked(has, again: Again) -> None:
    has(*MEASURED, episodes={"success": [1]})
    after = again(only_missing=False)
    but = "everything but what was measured before the adapter stage"
    assert again.asked == [None] and again.said == [f"cola-s0 evaluated again: {but}"]
    assert all(after.evaluation[key] == {"again": 0.12346} for key in MEASURED)
    assert after.evaluation["episodes"] == {"success": [1]} and after.evaluation["budget"] == BUDGET


def test_a_folder_that_is_gone_in_use_or_anothers_changes_nothing(has, again: Again, tmp_path: Path) -> None:
    before = has("idm")
    with locked(tmp_path / "runs" / "cola-s0.lock"):
        assert again(only_missing=True) == before and "is in use" in again.said[-1]
    weights = tmp_path / "runs" / "cola-s0" / "system" / "system.json"
    weights.unlink()
    assert again(only_missing=True) == before and "there are no weights in" in again.said[-1]
    weights.write_text("{}")
    other = {"format": 1, "recipe": "cola", "seed": 0, "budget": {"seconds": {"warmup": 2.5}}}
    (tmp_path / "runs" / "cola-s0" / "evaluation.json").write_text(json.dumps(other))
    assert again(only_missing=True) == before and "holds another training" in again.said[-1]
    assert again.asked == []


def test_what_is_measured_alone_is_what_the_end_of_training_says(tmp_path: Path, fake_recording) -> None:
    """A nano system on made-up clips."""
    fake_recording(tmp_path / "data.hdf5", [1, 2, 3, 4, 5, 6, 7, 17, 27], frames=16, size=32, walker=True)
    torch.manual_seed(0)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
    system = staged(build(PRESETS["nano"], **sizes), "adapter")
    planning = PlanningCheckConfig(clips=2, samples=4, iterations=1)
    config = TrainConfig(
        preset="nano",
        data=(tmp_path / "data.hdf5",),
        evaluation=EvaluationConfig(train_clips=12, planning=planning),
        held_out=HeldOutConfig(clips=4, strips=0),
    )
    whole = measured(config, system, tmp_path, None)
    assert whole["planning"]["clips"] == 2 and len(whole["codec"]["video"]["10"]["psnr"]) == 4 and whole["idm"]
    for keys in (("codec",), ("planning",), ADDED):
        assert measured(config, system, tmp_path, keys) == {key: whole[key] for key in keys}


def test_what_recipes_are_compared_by_is_measured_again_where_the_system_before_the_adapter_is_left(
    tmp_path: Path, fake_recording
) -> None:
    """Otherwise it is not said to have been."""
    fake_recording(tmp_path / "data.hdf5", [1, 2, 3, 4, 5, 6, 7, 17, 27], frames=16, size=32, walker=True)
    torch.manual_seed(0)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
    system = build(PRESETS["nano"], **sizes)
    config = TrainConfig(
        preset="nano",
        data=(tmp_path / "data.hdf5",),
        evaluation=EvaluationConfig(train_clips=12, planning=PlanningCheckConfig(clips=2, samples=4, iterations=1)),
        held_out=HeldOutConfig(clips=4, strips=0),
        share=tmp_path / "shared",
        out=tmp_path / "run",
    )
    config.out.mkdir()
    (config.out / BEFORE).write_text(json.dumps({"idm": {"use": "old"}, "adapter": None, "leak": "old"}))
    old = measured(config, staged(system, "adapter"), config.out, None)
    assert old["idm"] and not {"before_adapter", "leak", "probe", "transfer"} & old.keys()
    save_system(staged(system, "joint"), shared_folder(config) / "system")
    new = measured(config, staged(system, "adapter"), config.out, None)
    assert new["before_adapter"]["idm"]["use"] != "old" and new["leak"]["passed"] and new["probe"]
    assert new["before_adapter"]["idm"]["video"]["10"] == new["idm"]["video"]["10"], "the same weights"
