"""Train every recipe over several seeds and say which of the paper's claims hold here.

    python experiments/reproduce.py                            # preset tiny: hours on two CPU cores
    python experiments/reproduce.py --groups warmup --seeds 0  # a part of it
    python experiments/reproduce.py --preset small --workers 1 --init runs/small/system    # one GPU
    python experiments/reproduce.py --report-only              # the page, from the cells that have run
    python experiments/reproduce.py --reevaluate               # finished cells again, without training
    python experiments/reproduce.py --plan-manifest libero_goals_dev_v1     # and play episodes in the simulator

Kill it at any moment and run the same command: it goes on where it stopped. Cells that differ in their adapter alone
train what comes before it once. Each finished run becomes one small file in
``results/reproduce/<preset>/cells``, and ``report.html`` beside that folder is written anew; with these files another
machine goes on where this one stopped. Failed runs are in the report and are tried again by the next call.
"""

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from colaworld.adapters.system import weights_path
from colaworld.envs.starter import starter_path
from colaworld.experiments.cli import main
from colaworld.experiments.episode_log import write_text
from colaworld.experiments.provenance import file_hash
from colaworld.experiments.reproduce_cells import (
    FEWEST_SEEDS,
    GROUPS,
    SCALES,
    Cell,
    GroupName,
    ScaleName,
    ordered_cells,
)
from colaworld.experiments.reproduce_play import Episodes, episodes_of, play_cell
from colaworld.experiments.reproduce_report import report
from colaworld.experiments.reproduce_runs import Crew, run_cells
from colaworld.experiments.reproduce_store import CellStore, StoredCell, stored_hashes

TRAINER = (sys.executable, str(Path(__file__).with_name("train_world_model.py")))


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Flags of the grid."""

    preset: ScaleName = "tiny"
    """Sizes of the models and budgets of the runs."""
    groups: tuple[GroupName, ...] = tuple(GROUPS)
    """Which experiments to run; the report shows all of them."""
    variants: tuple[str, ...] = ()
    """Only these of the groups' variants, in this order; default: all."""
    seeds: tuple[int, ...] = FEWEST_SEEDS
    """Of the trainings; no claim is judged on fewer than seeds 0, 1 and 2."""
    workers: int = 2
    """Trainings at once; each gets its share of the cores."""
    data: tuple[Path, ...] = ()
    """What every run trains on; default: the starter data that ship."""
    init: Path | None = None
    """Codec and action-free video model that every run starts from; default: the preset's shipped weights."""
    fvd_weights: Path | None = None
    """The I3D of FVD; without it the Fréchet distance is on random features. No part of what makes a cell another."""
    lpips_weights: Path | None = None
    """The AlexNet of LPIPS; without it there is no LPIPS. No part of what makes a cell another."""
    results: Path = Path("results/reproduce")
    """Where cells and report are kept."""
    runs: Path = Path("runs/reproduce")
    """Where run folders lie; they are needed only until their run has finished."""
    report_only: bool = False
    """Write the report from the cells that are there, and run nothing."""
    reevaluate: bool = False
    """Instead of running cells, evaluate again those that have finished and whose run folders lie under --runs: what is
    measured by now need not have been when they ran."""
    only_missing: bool = False
    """With --reevaluate: measure only what a cell lacks, and keep what it has."""
    plan_manifest: str | None = None
    """Also play the episodes of this manifest in the simulator with every finished cell whose run folder lies under
    --runs: libero_goals_dev_v1, or a file of make_manifest.py; the manifests that results are reported on are refused.
    """
    plan_episodes: int | None = None
    """With --plan-manifest: only so many of its instances in each category; all when not given."""

    def __post_init__(self) -> None:
        if not self.groups or not self.seeds:
            raise ValueError(f"--groups and --seeds must name something, got {self.groups} and {self.seeds}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"--seeds must be different and not negative, got {self.seeds}")
        known = {name for group in self.groups for name in GROUPS[group].variants}
        for name in self.variants:
            if name not in known:
                raise ValueError(f"--variants: {name!r} is not in the groups {', '.join(self.groups)}")
        if self.workers < 1:
            raise ValueError(f"--workers must be 1 or more, got {self.workers}")
        if self.only_missing and not self.reevaluate:
            raise ValueError("--only-missing is of --reevaluate")
        if self.reevaluate and self.report_only:
            raise ValueError("--reevaluate and --report-only: either cells are measured or they are not")
        if self.plan_episodes is not None and (self.plan_manifest is None or self.plan_episodes < 1):
            raise ValueError(f"--plan-episodes is of --plan-manifest and 1 or more, got {self.plan_episodes}")
        for flag, path in (("--fvd-weights", self.fvd_weights), ("--lpips-weights", self.lpips_weights)):
            if path is not None and not path.is_file():
                raise ValueError(f"{flag}: there is no file {path}")

    def paths(self) -> tuple[str, ...]:
        """The flags of a training that name paths."""
        data = ("--data", *map(str, self.data)) if self.data else ()
        return (*data, *_given({"--init": self.init, **self._networks("--video.")}))

    def _networks(self, prefix: str) -> dict[str, Path | None]:
        """Flags of the feature networks that are files, under ``prefix``."""
        return {f"{prefix}fvd-weights": self.fvd_weights, f"{prefix}lpips-weights": self.lpips_weights}

    def hashes(self) -> dict[str, str]:
        """SHA-256 of what every run starts from; of what the stored ones did, where only the page is written and no
        weights ship.

        ValueError when there are no weights to start from.
        """
        init = self.init or weights_path(self.preset, "pretrained")
        if self.report_only and not init.exists() and self.init is None and not self.data:
            kept = stored_hashes(self.results / self.preset / "cells")
            if kept:
                return kept
        if self.init is not None and not init.exists():
            raise ValueError(f"--init: there is no folder {init}")
        if not init.exists():
            raise ValueError(
                f"no action-free weights ship for preset {self.preset!r}: train them with 'python "
                f"experiments/train_world_model.py --preset {self.preset} --from-scratch --stages codec pretrain "
                f"--out runs/{self.preset}' and start from them with --init runs/{self.preset}/system"
            )
        data = " ".join(file_hash(path) for path in self.data or (starter_path(),))
        return {"data": data, "init": file_hash(init)}

    def command(self) -> str:
        """What makes these results, as a command line."""
        words = ["python", "experiments/reproduce.py", "--preset", self.preset]
        if self.seeds != FEWEST_SEEDS:
            words += ["--seeds", *map(str, self.seeds)]
        if self.groups != tuple(GROUPS):
            words += ["--groups", *self.groups]
        if self.variants:
            words += ["--variants", *self.variants]
        data = ("--data", *map(str, self.data)) if self.data else ()
        files = _given({"--init": self.init, **self._networks("--")})
        played = {"--plan-manifest": self.plan_manifest, "--plan-episodes": self.plan_episodes}
        return shlex.join([*words, "--workers", str(self.workers), *data, *files, *_given(played)])


def _given(flags: Mapping[str, Path | str | int | None]) -> list[str]:
    """The flags that have a value, as arguments."""
    return [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]


def reproduce(config: Annotated[GridConfig, tyro.conf.arg(name="")]) -> None:
    """Run what has not run, and write the report."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that trainings end with the grid
    failed = run_grid(config, TRAINER)
    if failed:
        print(f"{len(failed)} failed: {', '.join(failed)}; the same command tries them again", file=sys.stderr)
        sys.exit(1)


def run_grid(config: GridConfig, trainer: Sequence[str], episodes: Episodes | None = None) -> list[str]:
    """Run every cell that has not finished with the command ``trainer`` and write the report after each; returns the
    names of those that failed. ``episodes`` are played with each; those of the flags when not given.
    """
    if config.plan_manifest and not config.report_only and episodes is None:
        episodes = episodes_of(config.plan_manifest, config.plan_episodes, config.workers)
    try:
        return _run_grid(config, trainer, None if config.report_only else episodes)
    finally:
        if episodes is not None:
            episodes.tasks.close()


def _run_grid(config: GridConfig, trainer: Sequence[str], episodes: Episodes | None) -> list[str]:
    folder, runs = config.results / config.preset, config.runs / config.preset
    store = CellStore(folder / "cells", SCALES[config.preset], config.hashes())
    cells = ordered_cells(config.groups, config.seeds)
    if config.variants:
        chosen = [cell for cell in cells if cell.variant.name in config.variants]
        cells = sorted(chosen, key=lambda cell: (cell.seed, config.variants.index(cell.variant.name)))
    failed: list[str] = []
    path: Path | None = None

    def ended(stored: StoredCell) -> None:
        nonlocal path
        if not stored.finished:
            failed.append(stored.cell)
        done = store.read()
        finished = sum(cell.name in done and done[cell.name].finished for cell in cells)
        print(f"{stored.cell} {stored.status}{f': {stored.error}' if stored.error else ''} ({finished}/{len(cells)})")
        path = write_report(config, store)
        for cell in (cell for cell in cells if cell.name == stored.cell):
            play(cell)

    def evaluated(stored: StoredCell, what: str) -> None:
        nonlocal path
        print(f"{stored.cell} {what}", flush=True)
        path = write_report(config, store)

    def play(cell: Cell) -> None:
        nonlocal path
        played = play_cell(cell, store, runs, episodes) if episodes else None
        if played:
            print(f"{cell.name} {played.said}", flush=True)
            failed.extend([cell.name] * played.failed)
            path = write_report(config, store) if played.stored else path

    if config.reevaluate:
        from colaworld.experiments.reproduce_again import reevaluate  # the models are slow to import

        reevaluate(cells, store, runs, config.paths(), only_missing=config.only_missing, ended=evaluated)
    elif not config.report_only:
        crew = Crew(trainer=tuple(trainer), paths=config.paths(), runs=runs, workers=config.workers)
        run_cells(cells, store, crew, ended)
    for cell in cells:
        if cell.name not in failed:
            play(cell)
    print(path or write_report(config, store))
    return failed


def write_report(config: GridConfig, store: CellStore) -> Path:
    """The page from what is stored now."""
    path = config.results / config.preset / "report.html"
    page = report(
        cells=store.read(),
        scale=store.scale,
        seeds=sorted({*FEWEST_SEEDS, *config.seeds}),
        command=config.command(),
    )
    write_text(path, page)
    return path


if __name__ == "__main__":
    main(reproduce)
