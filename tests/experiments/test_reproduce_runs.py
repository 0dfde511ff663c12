"""The grid: what is run in which order with which flags, resumption, failures, two at once, whose numbers are whose."""

import json
import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro

from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.reproduce import GridConfig, run_grid
from colaworld.experiments.reproduce_cells import GROUPS, SCALES, Cell, as_arguments, ordered_cells
from colaworld.experiments.reproduce_runs import Crew, run_cells
from colaworld.experiments.reproduce_store import CellStore, StoredCell, read_curves
from colaworld.experiments.reproduce_variants import VARIANTS
from colaworld.experiments.shared_stages import shared_folder
from colaworld.experiments.train_config import TrainConfig

HASHES = {"data": "d", "init": "i"}
ALL = 3 * len(VARIANTS)


@pytest.fixture
def crew(tmp_path: Path) -> Callable[..., Crew]:
    """``crew(plan, workers=1)``: the stand-in trainer with a plan for its cells."""
    (tmp_path / "plan").mkdir()

    def made(plan: dict | None = None, workers: int = 1) -> Crew:
        (tmp_path / "plan" / "plan.json").write_text(json.dumps(plan or {}))
        trainer = (sys.executable, str(Path(__file__).with_name("reproduce_trainer.py")), str(tmp_path / "plan"))
        return Crew(trainer=trainer, paths=(), runs=tmp_path / "runs", workers=workers)

    return made


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    return CellStore(tmp_path / "cells", SCALES["tiny"], HASHES)


def begun(tmp_path: Path) -> list[dict]:
    path = tmp_path / "plan" / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(cells: list[Cell], store: CellStore, crew: Crew) -> list[StoredCell]:
    ended: list[StoredCell] = []
    run_cells(cells, store, crew, ended.append)
    return ended


def cell(variant: str, seed: int = 0) -> Cell:
    return Cell(variant=VARIANTS[variant], seed=seed)


def test_first_experiments_come_seed_by_seed_then_the_others() -> None:
    names = [each.name for each in ordered_cells(tuple(GROUPS), (0, 1, 2))]
    assert len(names) == len(set(names)) == 3 * len(VARIANTS), "every variant is in a group, every cell once"
    first = [name for name, group in GROUPS.items() if group.first]
    assert len(first) == 5
    expected = [each.name for seed in (0, 1, 2) for each in ordered_cells(first, (seed,))]
    assert names[: len(expected)] == expected
    assert [each.name for each in ordered_cells(("probe",), (4,))] == ["cola-s4", "two_stage-s4"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trainer_knows_every_flag_and_all_spend_the_same_steps(variant: str) -> None:
    flags = cell(variant, seed=2).flags(SCALES["tiny"])
    config = tyro.cli(TrainConfig, args=as_arguments(flags))
    between = [stage for stage in RECIPES[config.recipe].stages if stage not in ("codec", "pretrain", "adapter")]
    spent = {stage: config.stage(stage) for stage in between}
    assert sum(each.steps for each in spent.values()) == 1500 * VARIANTS[variant].steps
    imagined = sum(round(each.steps * each.imagined) for each in spent.values())
    assert imagined == 260 * VARIANTS[variant].steps
    assert config.loop.seed == 2 and config.adapter.steps == (0 if variant == "no_fine_tune" else 75)
    assert config.warmup.commitment_ramp == config.joint.commitment_ramp == (1 if "no_ramp" in variant else 200)


def test_a_value_of_several_words_is_several_arguments() -> None:
    assert as_arguments({"--a": "1 2", "--b": "", "--c": "3"}) == ["--a", "1", "2", "--b", "--c", "3"]
    config = tyro.cli(TrainConfig, args=as_arguments(cell("longer_pretraining").flags(SCALES["tiny"])))
    assert config.run_stages() == ("pretrain", "warmup", "joint", "adapter") and config.pretrain.steps == 1500


def test_warmups_are_the_papers_scaled() -> None:
    names = ("warmup_4", "cola", "warmup_12", "warmup_16")
    assert [cell(name).flags(SCALES["tiny"])["--warmup.steps"] for name in names] == ["100", "200", "300", "400"]


def test_a_finished_cell_is_kept_whole_and_not_run_again(crew, store: CellStore, tmp_path: Path) -> None:
    first = run([cell("cola")], store, crew())
    kept = json.loads((tmp_path / "cells" / "cola-s0.json").read_text())
    assert kept["status"] == "finished" and kept["identity"]["flags"]["--recipe"] == "cola"
    assert kept["evaluation"]["idm"]["use"] == first[0].evaluation["idm"]["use"]
    assert kept["made_by"]["versions"]["python"] and (tmp_path / "cells" / "cola-s0.json").stat().st_size < 20_000
    steps = kept["curves"]["total_step"]
    assert len(steps) == len(kept["curves"]["entropy_1_moving"]) == 40 and (steps[0], steps[-1]) == (20, 1500)
    # Another machine has the cells and no run folders.
    moved = Crew(trainer=crew().trainer, paths=(), runs=tmp_path / "elsewhere", workers=1)
    assert run([cell("cola"), cell("two_stage")], store, moved)[0].cell == "two_stage-s0"
    assert Counter(each["cell"] for each in begun(tmp_path) if each["event"] == "begins")["cola-s0"] == 1


def test_the_revision_is_that_of_the_beginning(
    crew, store: CellStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code is worked on while a cell trains: here every beginning and every end makes another revision."""
    monkeypatch.setattr("colaworld.experiments.reproduce_runs.git_revision", lambda: str(len(begun(tmp_path))))
    ended = run([cell("cola"), cell("two_stage")], store, crew())
    assert [each.made_by["revision"] for each in ended] == ["0", "2"]


def test_a_failed_cell_says_why_and_is_tried_again(crew, store: CellStore, tmp_path: Path) -> None:
    (tmp_path / "plan" / "fail-cola-s0").touch()
    cells = [cell("cola"), cell("two_stage")]
    failed, other = run(cells, store, crew())
    assert failed.status == "failed" and failed.error == "exit code 1: error: the loss is nan" and other.finished
    assert store.get(cells[0]) == failed and not failed.evaluation
    (tmp_path / "plan" / "fail-cola-s0").unlink()
    assert [(each.cell, each.status, each.attempts) for each in run(cells, store, crew())] == [
        ("cola-s0", "finished", 2)
    ]


def test_an_ending_without_numbers_is_a_failure(store: CellStore, tmp_path: Path) -> None:
    trainer = (sys.executable, "-c", "")
    [stored] = run([cell("cola")], store, Crew(trainer=trainer, paths=(), runs=tmp_path / "runs", workers=1))
    assert stored.status == "failed" and "evaluation.json: the run ended without it" in stored.error
    [killed] = run(
        [cell("cola")],
        store,
        Crew(
            trainer=(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"),
            paths=(),
            runs=tmp_path / "runs",
            workers=1,
        ),
    )
    assert killed.error == "ended by signal 9"


def test_another_recipes_numbers_are_no_numbers(crew, store: CellStore, tmp_path: Path) -> None:
    wrong = Crew(trainer=(*crew().trainer,), paths=("--recipe", "x"), runs=tmp_path / "runs", workers=1)
    run([cell("cola")], store, wrong)  # the stand-in reads the first --recipe
    path = tmp_path / "runs" / "cola-s0" / "evaluation.json"
    path.write_text(path.read_text().replace('"recipe": "cola"', '"recipe": "two_stage"'))
    (tmp_path / "cells" / "cola-s0.json").unlink()
    keeps = Crew(trainer=(sys.executable, "-c", ""), paths=(), runs=tmp_path / "runs", workers=1)
    [stored] = run([cell("cola")], store, keeps)
    assert stored.status == "failed" and "recipe is 'two_stage', not 'cola'" in stored.error


def test_two_workers_train_at_once(crew, store: CellStore, tmp_path: Path) -> None:
    plan = {"cola": {"seconds": 0.6}, "two_stage": {"seconds": 0.6}}
    run([cell("cola"), cell("two_stage"), cell("fsq")], store, crew(plan, workers=2))
    calls = begun(tmp_path)
    at_work, most = 0, 0
    for each in sorted(calls, key=lambda call: call["at"]):
        at_work += 1 if each["event"] == "begins" else -1
        most = max(most, at_work)
    assert most == 2 and {each["cell"] for each in calls[:2]} == {"cola-s0", "two_stage-s0"}


def test_cells_that_share_their_start_wait_for_the_first_of_them(crew, store: CellStore, tmp_path: Path) -> None:
    plan = {name: {"seconds": 0.4} for name in ("cola", "plain_adapter", "nearest_adapter", "two_stage")}
    run([cell(name) for name in plan], store, crew(plan, workers=2))
    calls = [(each["cell"].removesuffix("-s0"), each["event"]) for each in begun(tmp_path)]
    assert {name for name, _ in calls[:2]} == {"cola", "two_stage"}, "others first, that share nothing with it"
    ended = calls.index(("cola", "ends"))
    assert ended < calls.index(("plain_adapter", "begins")) and ended < calls.index(("nearest_adapter", "begins"))
    both = [calls.index((name, "begins")) for name in ("plain_adapter", "nearest_adapter")]
    assert max(both) < min(calls.index((name, "ends")) for name in ("plain_adapter", "nearest_adapter"))


def test_the_grid_and_the_trainer_agree_on_what_cells_share(tmp_path: Path) -> None:
    cells = [cell(name) for name in VARIANTS] + [cell("cola", seed=1)]
    grid = [each.before_adapter(SCALES["tiny"]) for each in cells]
    flags = [as_arguments(each.flags(SCALES["tiny"])) for each in cells]
    trainer = [shared_folder(tyro.cli(TrainConfig, args=[*each, "--share", str(tmp_path)])) for each in flags]
    for one, first in enumerate(cells):
        for two, second in enumerate(cells):
            assert (grid[one] == grid[two]) == (trainer[one] == trainer[two]), f"{first.name} and {second.name}"
    assert len(set(grid)) < len(cells) - 8


def test_a_killed_grid_goes_on_and_never_trains_a_cell_twice_at_once(crew, store: CellStore, tmp_path: Path) -> None:
    plan = {"two_stage": {"seconds": 2.0}}
    cells = [cell("cola"), cell("two_stage"), cell("fsq")]
    grid = multiprocessing.get_context("fork").Process(target=run, args=(cells, store, crew(plan)))
    grid.start()
    while not any(each["cell"] == "two_stage-s0" for each in begun(tmp_path)):
        time.sleep(0.05)
    os.kill(grid.pid, signal.SIGKILL)  # its training lives on
    grid.join()
    assert store.read().keys() == {"cola-s0"}
    ended = run(cells, store, crew())
    assert {each.cell for each in ended} == {"two_stage-s0", "fsq-s0"} and all(each.finished for each in ended)
    events = [each["event"] for each in begun(tmp_path) if each["cell"] == "two_stage-s0"]
    assert events == ["begins", "ends", "begins", "ends"], "the one left behind ends before the next begins"


def test_an_interrupted_grid_ends_its_trainings(crew, store: CellStore, tmp_path: Path) -> None:
    plan = {"cola": {"seconds": 60}}

    def interrupted() -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        run([cell("cola")], store, crew(plan))

    grid = multiprocessing.get_context("fork").Process(target=interrupted)
    grid.start()
    while not begun(tmp_path):
        time.sleep(0.05)
    grid.terminate()
    grid.join()
    assert grid.exitcode == 143 and not store.read(), "an interruption is no failure of the cell"
    [stored] = run([cell("cola")], store, crew())  # would wait for a training that lives on
    assert stored.finished


def test_numbers_of_other_flags_or_data_are_refused_and_kept(crew, store: CellStore, tmp_path: Path) -> None:
    run([cell("cola")], store, crew())
    path = tmp_path / "cells" / "cola-s0.json"
    with pytest.raises(ValueError, match=r"cola-s0.json: made with data = 'd', this grid has 'other'"):
        CellStore(tmp_path / "cells", SCALES["tiny"], HASHES | {"data": "other"})
    path.write_text(path.read_text().replace('"--warmup.steps":"200"', '"--warmup.steps":"150"'))
    before = path.read_text()
    with pytest.raises(ValueError, match=r"cola-s0.json: made with --warmup.steps = '150', this grid has '200'"):
        CellStore(tmp_path / "cells", SCALES["tiny"], HASHES)
    assert path.read_text() == before
    path.write_text("{")
    with pytest.raises(ValueError, match="cola-s0.json: not a cell of this grid"):
        CellStore(tmp_path / "cells", SCALES["tiny"], HASHES)


def test_failures_of_other_flags_count_as_not_run(crew, store: CellStore, tmp_path: Path) -> None:
    (tmp_path / "plan" / "fail-cola-s0").touch()
    run([cell("cola")], store, crew())
    assert CellStore(tmp_path / "cells", SCALES["tiny"], HASHES | {"data": "other"}).read() == {}


def test_curves_are_thinned_and_rounded(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"total_step": step, "loss": 1.0} for step in range(5)]
    lines += [{"total_step": step, "held_out/entropy_0": step / 3} for step in range(100)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = read_curves(path, looks=4)
    assert curves == {"total_step": [0, 33, 66, 99], "entropy_0": [0.0, 11.0, 22.0, 33.0]}
    assert read_curves(tmp_path / "absent") == {}


def test_the_whole_grid_reports_and_goes_on(
    crew, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for plot in ("codebook_curves", "by_horizon", "adapter_cost"):  # seconds each time, and tested with the page
        monkeypatch.setattr(f"colaworld.experiments.reproduce_report.{plot}", lambda *_: None)
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "weights").write_text("w")
    config = GridConfig(
        preset="tiny",
        groups=("probe",),
        seeds=(0,),
        data=(tmp_path / "start",),
        init=tmp_path / "start",
        results=tmp_path / "results",
        runs=tmp_path / "runs",
    )
    (tmp_path / "plan" / "fail-two_stage-s0").touch()
    assert run_grid(config, crew().trainer) == ["two_stage-s0"]
    page = (tmp_path / "results" / "tiny" / "report.html").read_text()
    assert (
        f"Of {ALL} cells 1 have finished, 1 have failed, {ALL - 2} have not run" in page and "the loss is nan" in page
    )
    assert "two_stage-s0 failed: exit code 1: error: the loss is nan (1/2)" in capsys.readouterr().out
    (tmp_path / "plan" / "fail-two_stage-s0").unlink()
    assert run_grid(config, crew().trainer) == []
    (tmp_path / "results" / "tiny" / "report.html").unlink()
    before = len(begun(tmp_path))
    run_grid(GridConfig(**{**vars(config), "report_only": True}), crew().trainer)
    page = (tmp_path / "results" / "tiny" / "report.html").read_text()
    assert f"Of {ALL} cells 2 have finished, 0 have failed" in page and len(begun(tmp_path)) == before
    chosen = {"groups": ("probe", "ramp"), "variants": ("no_ramp", "cola"), "seeds": (1,), "workers": 1}
    only = GridConfig(**{**vars(config), **chosen})
    assert run_grid(only, crew().trainer) == []
    started = [each["cell"] for each in begun(tmp_path)[before:] if each["event"] == "begins"]
    assert started == ["no_ramp-s1", "cola-s1"]
    assert "--preset tiny --seeds 0 --groups probe --workers 2" in page, "the command"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seeds": (0, 0)}, r"--seeds must be different and not negative, got \(0, 0\)"),
        ({"seeds": ()}, "must name something"),
        ({"groups": ("probe",), "variants": ("fsq",)}, "--variants: 'fsq' is not in the groups probe"),
        ({"workers": 0}, "--workers must be 1 or more, got 0"),
    ],
)
def test_impossible_flags_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GridConfig(**wrong)


def test_feature_networks_reach_the_trainer_and_change_no_identity(tmp_path: Path) -> None:
    network = tmp_path / "network.pt"
    network.touch()
    init = tmp_path / "system"
    init.mkdir()
    config = GridConfig(init=init, fvd_weights=network, lpips_weights=network)
    networks = ("--video.fvd-weights", str(network), "--video.lpips-weights", str(network))
    assert config.paths() == ("--init", str(init), *networks)
    assert config.hashes() == GridConfig(init=init).hashes()
    assert config.command().endswith(f"--workers 2 --init {init} --fvd-weights {network} --lpips-weights {network}")
    with pytest.raises(ValueError, match="--lpips-weights: there is no file absent.pth"):
        GridConfig(lpips_weights=Path("absent.pth"))


def test_a_preset_without_weights_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--preset small --from-scratch --stages codec pretrain") as said:
        GridConfig(preset="small", results=tmp_path).hashes()
    (tmp_path / "small" / "cells").mkdir(parents=True)
    stored = {"status": "finished", "identity": {"flags": {}, "data": "d", "init": "i"}}
    (tmp_path / "small" / "cells" / "cola-s0.json").write_text(json.dumps(stored))
    only_page = GridConfig(preset="small", results=tmp_path, report_only=True)
    assert only_page.hashes() == {"data": "d", "init": "i"}, "the page is of what has run"
    words = shlex.split(str(said.value).split("'")[3])
    config = tyro.cli(TrainConfig, args=words[2:])  # what it says to run can be run, and leaves what it says it does
    assert config.run_stages() == ("codec", "pretrain")
    assert str(said.value).endswith(f"--init {config.out / 'system'}")
    with pytest.raises(ValueError, match="--init: there is no folder absent"):
        GridConfig(init=Path("absent")).hashes()
