"""Evaluate a trained system on held-out clips: action use, leaks, probe, code transfer, codebook health, video metrics.

    python experiments/evaluate.py                                           # the weights that ship, on starter data
    python experiments/evaluate.py --run runs/train --data my.hdf5
    python experiments/evaluate.py --video.fvd-weights i3d_torchscript.pt    # FVD instead of random features
    python experiments/evaluate.py --video.lpips-weights alexnet-owt-7be5be79.pth

A training run ends with the same, and with what was measured before its adapter stage, which the finished weights
no longer show. ``evaluation.json`` has every number, one a clip where an interval can be drawn.
"""

from pathlib import Path
from typing import Annotated

import tyro

from colaworld.adapters.system import load_system, weights_path
from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.experiments.cli import main
from colaworld.experiments.encoded_data import check_codec
from colaworld.experiments.evaluation import EvaluationConfig, evaluate, summary, write_evaluation
from colaworld.experiments.held_out import CONTEXT_FRAMES, HORIZONS, HeldOutConfig
from colaworld.experiments.planning_world import system_folder
from colaworld.experiments.recipes import RECIPES
from colaworld.experiments.video_metrics import VideoMetricsConfig, metrics_table


def evaluate_system(
    run: Path | None = None,
    data: tuple[Path, ...] = (),
    source: SourceOptions = SourceOptions(),
    out: Path = Path("runs/evaluation"),
    windows: Annotated[HeldOutConfig, tyro.conf.arg(name="")] = HeldOutConfig(),
    evaluation: EvaluationConfig = EvaluationConfig(),
    video: VideoMetricsConfig = VideoMetricsConfig(),
) -> None:
    """Print the evaluation and write ``evaluation.json``, ``held_out.json`` and picture strips.

    Args:
        run: folder of a training run or of a trained system; the weights that ship when not given.
        data: what train_world_model.py takes; its held-out trajectories are imagined; default: the starter data.
        source: how to read data that colaworld did not record.
        out: folder for what is written.
        windows: how many held-out windows, which, and how many are drawn.
        evaluation: what probe and locator are fitted on.
        video: feature networks of LPIPS and FVD.
    """
    folder = system_folder(run) if run else weights_path()
    system = load_system(folder)
    if "conditioner" not in RECIPES[system.info.recipe].trained_by(system.info.stage):
        raise ValueError(f"{folder} has only been trained to stage {system.info.stage!r}: it takes no actions yet")
    length, paths = CONTEXT_FRAMES + max(HORIZONS), data or (starter_path(),)
    train = ClipDataset(paths, length=length, split="train", encoded=True, options=source)
    check_codec(train, system.codec, folder)
    held_out = ClipDataset(paths, length=length, split="validation", options=source)
    if system.info.stage == "adapter" or system.inverse_dynamics is None:
        held_out.require_actions("a system with an adapter")
    report = evaluate(system, train, held_out, evaluation, windows, video, out)
    driven = {name: report[name]["video"] for name in ("copy", "idm", "adapter", "adapter_codes") if report[name]}
    path = write_evaluation(out, report, {}, None)
    print(metrics_table(driven), summary(report), f"evaluation: {path}", sep="\n")


if __name__ == "__main__":
    main(evaluate_system)
