"""What trained systems are worth in scenes of another family, which neither codec nor latent action model has seen::

    python experiments/second_data.py --runs runs/reproduce/tiny/cola-s0 runs/reproduce/tiny/two_stage-s0

For each system (folder of a run, or a system), with codec and latent action model (LAM) frozen throughout:

    zero-shot    everything as it was trained, on held-out clips of the second data
    fitted       a fresh adapter of the same make, fitted on the second data's training trajectories
    fine-tuned   and then the recipe's adapter stage there, which also moves the world model

That stage has the flags that the run's ``config.json`` says it was trained with (the trainer's defaults where there is
none), but for its length and batches.
``real_actions`` has no LAM: its action encoder only learns together with the world model, so it has no "fitted".
A codec that never saw the scenes is a ceiling for everything: its own PSNR stands in the first lines, there and at
home.

One JSON line a system, whole or not there; the same command goes on with the systems that are missing. Windows of one
trajectory are not independent: intervals are over trajectories, differences between systems over their seeds.
Not in the paper: its readers asked for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from colaworld.adapters.system import ColaSystem, load_system
from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.envs.starter import second_path
from colaworld.experiments.adapter_choices import (
    STANDARDS,
    check_fits,
    fine_tuned,
    fresh_adapter,
    interval_text,
    measure,
    run_folder,
    stage_of,
    standards,
)
from colaworld.experiments.adapter_fit import AdapterFitConfig, fit_adapter
from colaworld.experiments.cli import main
from colaworld.experiments.episode_log import write_text
from colaworld.experiments.evaluation import Evaluation, EvaluationConfig
from colaworld.experiments.held_out import HeldOutConfig, held_out_windows
from colaworld.experiments.planning_world import system_folder, system_hash
from colaworld.experiments.provenance import file_hash
from colaworld.experiments.report import aligned
from colaworld.experiments.reproduce_measures import Measure, Value, found, health, number
from colaworld.experiments.reproduce_store import EVALUATION_DIGITS, rounded
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.video_metrics import VideoMetricsConfig, few_clips

FORMAT = 2
"""1: every system was fine-tuned with the trainer's default stage, and codes were transferred within trajectories."""
LAST = 10
STEPS = ("home", "zero_shot", "fitted", "fine_tuned")
"""The columns; ``home`` is the run's own ``evaluation.json``, on its own clips."""
DRIVEN = {"idm": "IDM's codes", "adapter": "adapter", "adapter_codes": "adapter's codes"}
HEALTH = {"utilisation": "utilisation", "max_usage": "max-usage", "entropy": "entropy (nat)"}


def _lost(report: Mapping[str, Any]) -> Value:
    idm, adapter = (found(report, name, "video", str(LAST), "psnr") for name in ("idm", "adapter"))
    return None if idm is None or adapter is None else idm - adapter


MEASURES: tuple[Measure, ...] = (
    *(
        number(f"PSNR (dB) at horizon {horizon}, {title}", name, "video", str(horizon), "psnr", digits=2)
        for horizon in (1, LAST)
        for name, title in {**STANDARDS, **DRIVEN}.items()
    ),
    *(
        number(f"{said} at horizon {LAST}, {title}", name, "video", str(LAST), *keys)
        for said, keys in (("SSIM", ["ssim"]), ("LPIPS", ["lpips"]), ("Fréchet distance", ["frechet", "value"]))
        for name, title in {**STANDARDS, **DRIVEN}.items()
    ),
    Measure(title=f"PSNR (dB) at horizon {LAST}, lost from IDM's codes to the adapter", read=_lost, digits=2),
    *(
        number(f"next-frame error, {title}", name, "next_frame_error", digits=4)
        for name, title in {"copy": STANDARDS["copy"], **DRIVEN}.items()
    ),
    *(number(f"action use U, {title}", name, "use") for name, title in DRIVEN.items()),
    *(number(f"shuffled ratio, {title}", name, "shuffled_ratio") for name, title in DRIVEN.items()),
    *(
        replace(health(name, quantity), title=f"{title} of the worse token, {DRIVEN[name]}")
        for name in ("idm", "adapter")
        for quantity, title in HEALTH.items()
    ),
    number("adapter picks the IDM's code, mean over tokens", "adapter", "confusion", "accuracy"),
    number("share of the commonest code, mean over tokens", "adapter", "confusion", "majority"),
    number("probe L1, mean over action dimensions", "probe", "l1", digits=4),
    number("L1 of the constant predictor", "probe", "l1_constant", digits=4),
    number("R2 of the gripper's displacement, read linearly", "probe", "displacement_r2"),
    number("R2 of the gripper's destination, read linearly", "probe", "destination_r2"),
    *(number(f"code transfer: {name}", "transfer", name) for name in ("ceiling", "own", "transferred", "by_chance")),
)
"""What the table shows of a report, which is shaped as ``evaluation.json``."""


def look(
    system: ColaSystem,
    train: ClipDataset,
    held_out: ClipDataset,
    *,
    config: EvaluationConfig,
    windows: HeldOutConfig,
    networks: VideoMetricsConfig,
    fit: AdapterFitConfig,
    stage: StageConfig,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """The three reports on the second data (None where a part does not apply, and ``notes`` says why); tables and
    strips of imagined video go into ``folder``. ``stage`` is that of the fine-tuning. The system itself is left as it
    was.
    """
    notes: list[str] = []
    evaluation = Evaluation(train, held_out, config, windows, networks)
    clips = evaluation.clips
    zero_shot = {**standards(system, clips, networks), **evaluation.finished(system, folder / "zero_shot")}
    report: dict[str, Any] = {"zero_shot": zero_shot, "fitted": None, "fine_tuned": None}
    if system.inverse_dynamics is None:
        notes.append("no latent action model: IDM, codes and transfer do not apply, and re-fitting is the fine-tuning")
    else:
        made = system.adapter.config
        fresh = fresh_adapter(system, made.kind, made.context_frames, snap=made.snap, seed=seed)
        system = replace(system, adapter=fresh)
        said = fit_adapter(system, train.episodes, held_out.episodes, fit, seed=seed)
        report["fitted"] = {**measure(system, clips, networks), "fit": said}
    if stage.steps:
        tuned = fine_tuned(system, stage, train, held_out, seed=seed)
        report["fine_tuned"] = evaluation.finished(tuned, folder / "fine_tuned")
    else:
        notes.append("no steps of fine-tuning asked for")
    return {**report, "notes": notes}


def home_means(run: Path, more: Mapping[str, Any]) -> dict[str, float]:
    """What the run's own ``evaluation.json`` (where there is one) and ``more`` say of ``MEASURES``, by title."""
    report = {**more, **_read_json(run_folder(run) / "evaluation.json")}
    values = {measure.title: measure.read(report) for measure in MEASURES}
    return {title: float(value.mean()) for title, value in values.items() if value is not None}


def name_and_seed(run: Path) -> tuple[str, int | None]:
    """What a run is called and the seed of its weights, as its ``config.json`` has it (None: not known)."""
    folder = run_folder(run).resolve()
    name = folder.name if (folder / "system").is_dir() else f"{folder.parent.name}/{folder.name}"
    return name, (_read_json(folder / "config.json").get("loop") or {}).get("seed")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The systems in the file so far. ValueError naming the line that is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = []
    for number_, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if record["format"] != FORMAT or not isinstance(record["weights"], str):
                raise ValueError(f"format is {record['format']!r}, this version reads {FORMAT}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: line {number_} holds no system ({error}); remove it") from error
        records.append(record)
    return records


def check_settings(path: Path, records: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """ValueError naming the first setting in which what is in the file differs from this command."""
    for record in records:
        for key, value in settings.items():
            if record["settings"].get(key) != value:
                made = f"{record['name']} was made with {key} = {record['settings'].get(key)}"
                raise ValueError(f"{path}: {made}, not {value}; name another --out")


def table(record: Mapping[str, Any]) -> str:
    """One system: a line for each measure that it has, a column for each of ``STEPS``."""
    title = f"{record['recipe']}, seed {record['seed']} ({record['name']})"
    rows = [(title, *(step.replace("_", "-") for step in STEPS))]
    for each in MEASURES:
        home = record["home"].get(each.title)
        cells = ["-" if home is None else each.text(home)]
        for step in STEPS[1:]:
            value = None if record[step] is None else each.read(record[step])
            per_window = value is not None and value.shape == (len(record["trajectories"]),)
            if value is None:
                cells.append("-")
            elif per_window:
                cells.append(interval_text(value, record["trajectories"], each.digits))
            else:
                cells.append(each.text(float(value.mean())))
        if cells != ["-"] * len(cells):
            rows.append((each.title, *cells))
    return "\n".join([*aligned(rows), *(f"  {note}" for note in (*record["notes"], *_extractors(record)))])


def _extractors(record: Mapping[str, Any]) -> list[str]:
    """On which features Fréchet distances are, of how many windows; and where these are few."""
    distances = [
        distance
        for step in STEPS[1:]
        for name in (*STANDARDS, *DRIVEN)
        for video in (((record[step] or {}).get(name) or {}).get("video") or {}).values()
        if (distance := video.get("frechet"))
    ]
    named = dict.fromkeys(f"Fréchet distances on {each['name']}, n = {each['n']}" for each in distances)
    return [*named, *few_clips([each for each in distances if "features" in each])]


def second_data(
    runs: tuple[Path, ...],
    data: tuple[Path, ...] = (),
    source: SourceOptions = SourceOptions(),
    home: tuple[Path, ...] = (),
    evaluation: EvaluationConfig = EvaluationConfig(),
    fit: AdapterFitConfig = AdapterFitConfig(),
    adapter_steps: int = 75,
    batch_size: int = 4,
    clips: int = 32,
    video: VideoMetricsConfig = VideoMetricsConfig(),
    seed: int = 0,
    out: Path = Path("results/second/systems.jsonl"),
    strips: Path = Path("runs/second"),
) -> None:
    """Measure every system on the second data, one JSON line each, and print a table.

    Args:
        runs: folders of training runs or of trained systems.
        data: the second data, what train_world_model.py takes; default: those that ship.
        source: how to read data that colaworld did not record.
        home: where the codec at home is measured; default: the starter data.
        evaluation: how much is evaluated.
        fit: budget of the fresh adapter's fit.
        adapter_steps: steps of the run's adapter stage after it; 0: none.
        batch_size: clips in a batch of these steps.
        clips: held-out windows.
        video: feature networks that are files, for FVD and LPIPS.
        seed: of fresh weights, batches and windows, the same for all systems.
        out: the file of JSON lines.
        strips: folder for strips of imagined video.
    """
    if not runs:
        raise ValueError("--runs names no system")
    if adapter_steps < 0 or batch_size < 1:
        said = f"{adapter_steps} and {batch_size}"
        raise ValueError(f"--adapter-steps must be 0 or more and --batch-size 1 or more, got {said}")
    places, windows = data or (second_path(),), HeldOutConfig(clips=clips, strips=min(2, clips), seed=seed)
    settings: dict[str, Any] = {
        "data": sha256(" ".join(map(file_hash, places)).encode()).hexdigest(),
        "evaluation": asdict(evaluation),
        "fit": asdict(fit),
        **{"adapter_steps": adapter_steps, "batch_size": batch_size, "clips": clips, "seed": seed},
        "video": {key: file_hash(each) if isinstance(each, Path) else each for key, each in vars(video).items()},
    }
    check_settings(out, read_lines(out), settings)
    chosen = {run: system_hash(_trained(run)) for run in runs}
    for run, weights in chosen.items():
        if weights in {record["weights"] for record in read_lines(out)}:
            continue
        folder, (name, trained_with) = system_folder(run), name_and_seed(run)
        system = load_system(folder)
        train, held_out, at_home = (
            ClipDataset(where, length=system.info.clip, split=split, options=options)
            for where, split, options in (
                (places, "train", source),
                (places, "validation", source),
                (home or (starter_path(),), "validation", None),
            )
        )
        train.require_actions("an adapter")
        for each in (train, at_home):
            check_fits(folder, system, each)
        at_home, _ = held_out_windows(at_home.episodes, windows)
        record = {"format": FORMAT, "name": name, "recipe": system.info.recipe, "seed": trained_with}
        trajectories = held_out_windows(held_out.episodes, windows)[1]
        record |= {"weights": weights, "settings": settings, "trajectories": trajectories}
        stage = stage_of(adapter_steps, batch_size, run)
        record["stage"] = asdict(stage) if adapter_steps else None
        record["home"] = home_means(run, standards(system, at_home, video))
        record |= look(
            system,
            train,
            held_out,
            config=evaluation,
            windows=windows,
            networks=video,
            fit=fit,
            stage=stage,
            seed=seed,
            folder=strips / name,
        )
        lines = [*read_lines(out), {**rounded(record, EVALUATION_DIGITS), "settings": settings}]
        write_text(out, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    records = {record["weights"]: record for record in read_lines(out)}
    shown = sorted((records[weights] for weights in dict.fromkeys(chosen.values())), key=_order)
    print(f"second data, {clips} held-out windows [95 % interval over their trajectories]; home: the run's own clips")
    print(*(f"\n{table(record)}" for record in shown), f"\nwritten: {out}", sep="\n")


def _order(record: Mapping[str, Any]) -> tuple[str, int, str]:
    return record["recipe"], -1 if record["seed"] is None else record["seed"], record["name"]


def _trained(run: Path) -> Path:
    """The folder of the system. ValueError when it has no adapter yet."""
    folder = system_folder(run)
    info = load_system(folder).info
    if info.stage != "adapter":
        raise ValueError(f"{folder} has only been trained to stage {info.stage!r}; the second data need 'adapter'")
    return folder


if __name__ == "__main__":
    main(second_data)
