"""Fewer sampling steps: how much faster a plan is, and what that costs: squared error of latents on held-out clips,
imagined through the adapter from real actions.
"""

from dataclasses import asdict, replace
from typing import Any

import torch

from colaworld.adapters.world import ColaWorld
from colaworld.envs.demos import ClipDataset, starter_path
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig
from colaworld.experiments.benchmark_planning_timing import in_turns, middle, ratio
from colaworld.experiments.benchmark_planning_world import Scene, planned, planner_in
from colaworld.experiments.held_out import HORIZONS, HeldOutConfig, held_out_windows
from colaworld.experiments.intervals import bootstrap_mean
from colaworld.models.cola import CONTEXT_FRAMES


def fewer_steps(config: BenchmarkConfig, scene: Scene, rung: str, world: ColaWorld) -> dict[str, Any]:
    """Of ``world`` in 1, 2, ... ``--flow-steps`` sampling steps: seconds of a plan, how many times faster than in most,
    and the error (None for random weights).
    """
    most = config.flow_steps
    counts = sorted({*(2**power for power in range(most.bit_length())), most})
    planners = {str(steps): planner_in(config, world.refined(steps)) for steps in counts}
    for mpc in planners.values():
        planned(mpc, scene)
    watch = config.stopwatch()
    seconds = in_turns(
        {name: lambda mpc=mpc: watch.seconds(lambda: planned(mpc, scene)) for name, mpc in planners.items()},
        config.repetitions,
    )
    errors = held_out_errors(config, scene, counts) if scene.trained else {}
    rows = [
        {
            "steps": steps,
            "seconds": middle(seconds[str(steps)]),
            "all_seconds": seconds[str(steps)],
            "over_most": asdict(ratio(seconds[str(most)], seconds[str(steps)])),
            "error_over_copying": errors.get(steps),
        }
        for steps in counts
    ]
    return {"rung": rung, "clips": config.clips if errors else 0, "rows": rows}


@torch.no_grad()
def held_out_errors(config: BenchmarkConfig, scene: Scene, counts: list[int]) -> dict[int, dict[str, float]]:
    """By sampling steps: mean squared error of the latents imagined through the adapter, over that of copying the last
    context frame, with a bootstrap interval over clips. Without guidance, as evaluations plan: it sharpens what a plan
    is to do and takes the picture away from what was recorded.
    """
    length = CONTEXT_FRAMES + max(HORIZONS)
    clips = ClipDataset(config.data or (starter_path(),), length=length, split="validation")
    windows, _ = held_out_windows(clips.episodes, HeldOutConfig(clips=config.clips, strips=0))
    latents = scene.system.codec.encode(windows.frames.to(config.device))
    actions, known = windows.actions.to(config.device), CONTEXT_FRAMES - 1
    context, future = latents[:, :CONTEXT_FRAMES], latents[:, CONTEXT_FRAMES:]
    copied = (context[:, -1:] - future).square().mean()
    errors = {}
    for steps in counts:
        world = ColaWorld(scene.system, replace(config.sampler(), steps=steps, guidance=1.0))
        state = world.imagination.start(context, world.latent_actions(actions[:, :known], context))
        chance = torch.Generator().manual_seed(0)
        imagined = world.imagination.roll_out(state, world.adapted(actions[:, known:]), future.shape[1], chance)
        each = (imagined - future).square().mean(dim=(1, 2, 3, 4)) / copied
        errors[steps] = asdict(bootstrap_mean(each.double().cpu().numpy()))
    return errors
