"""The imagination engine, part by part: seconds from the naive roll-out up to everything, for the same candidates.

Every rung imagines the same actions from the same context with the same noise, sampling steps and guidance, and has to
come to the same latents (bfloat16: nearly). Each adds one thing to the rung before:

- ``naive``: a candidate at a time, the context encoded for each, every sampling step of every frame computed from all
  frames so far, guidance in two passes;
- ``context``: the context's frames are encoded once for all;
- ``context cache``: its keys and values are, too;
- ``frame cache``: those of imagined frames are remembered;
- ``batch``: all candidates at once;
- ``one pass``: both branches of guidance and the frame to be remembered in one pass, keys and values in place: the
  ``Engine``;
- ``compile``, and ``bfloat16`` without and with it, each compared with the engine in float32.

Then the engine alone with fewer sampling steps, and what that costs: squared error of latents on held-out clips.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from colaworld.adapters.world import ColaWorld
from colaworld.envs.demos import ClipDataset, starter_path
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig
from colaworld.experiments.benchmark_planning_timing import in_turns, middle, ratio
from colaworld.experiments.benchmark_planning_world import Scene
from colaworld.experiments.held_out import HORIZONS, HeldOutConfig, held_out_windows
from colaworld.experiments.intervals import bootstrap_mean
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.engine import Engine, EngineConfig
from colaworld.models.flow import integrate
from colaworld.models.imagination import Imagination, Imagined, NextAction

EXACT, NEAR = 1e-3, 0.2
"""How far a rung in float32, and one in bfloat16, may be from the naive roll-out, of its largest latent."""
STEPS = (1, 2, 4)


class Uncached(Engine):
    """Every step of every frame from all frames so far."""

    def roll_out(self, state: Imagined, next_action: NextAction, horizon: int, generator=None, *, noise=None) -> Tensor:
        """As ``Imagination.roll_out_uncached``."""
        return self.roll_out_uncached(state, next_action, horizon, generator, noise=noise)


class ContextCached(Engine):
    """Every step of every frame from the context's keys and values and all frames imagined so far."""

    def roll_out(self, state: Imagined, next_action: NextAction, horizon: int, generator=None, *, noise=None) -> Tensor:
        """As ``Imagination.roll_out``."""
        recent, actions, frames = state.recent, state.actions, []
        done, device = state.cache.frames, recent.device
        for step in range(horizon):
            actions = torch.cat([actions, next_action(step, recent)[:, None]], dim=1)
            branches = [None if part is None else part[:, -1:] for part in self._modulations(actions)]
            mask = torch.ones(step + 1, done + step + 1, dtype=torch.bool, device=device).tril(done)
            positions = torch.arange(done, done + step + 1, device=device)

            def velocity(x: Tensor, time: Tensor) -> Tensor:
                found = []
                for own in branches:
                    clean = [] if own is None else [torch.zeros_like(own).expand(-1, step, -1, -1), own]
                    velocities, _ = self.video(
                        torch.cat([*frames, x], dim=1).to(self.dtype),
                        torch.cat([torch.ones_like(time).expand(-1, step), time], dim=1),
                        positions,
                        action_modulation=torch.cat(clean, dim=1) if clean else None,
                        mask=mask,
                        cache=state.cache,
                    )
                    found.append(velocities[:, -1:])
                return self._guided(torch.cat(found, dim=1), x)

            frame = integrate(velocity, self._source(recent, noise, step), self.sampler.steps)
            frames.append(frame)
            recent = torch.cat([recent[:, 1:], frame], dim=1)
        return torch.cat(frames, dim=1)


class FrameCached(Engine):
    """Every step of every frame from the keys and values of the frames before."""

    def roll_out(self, state: Imagined, next_action: NextAction, horizon: int, generator=None, *, noise=None) -> Tensor:
        """As ``Imagination.roll_out``, and no more."""
        return Imagination.roll_out(self, state, next_action, horizon, generator, noise=noise)


Rung = Callable[[], Tensor]


def ladder(config: BenchmarkConfig, scene: Scene) -> dict[str, Rung]:
    """The rungs by name, in their order: each imagines ``(S, H, C, h, w)``."""
    samples, _, horizon = config.plan()
    actions = scene.candidates(samples, horizon)

    def world(kind: type[Engine], engine: EngineConfig) -> ColaWorld:
        # Not snapped: a rounding error could tip an action that lies between two codes.
        made = ColaWorld(scene.system, config.sampler(), snap=False)
        made.imagination = kind(
            scene.system.video, scene.system.conditioner, scene.system.info.flow, config.sampler(), engine
        )
        return made

    def imagined(world: ColaWorld, actions: Tensor) -> Tensor:
        state = world.start(scene.frames, scene.past)
        return world.imagine(state, actions, torch.Generator().manual_seed(0))

    def naive() -> Tensor:
        return torch.cat([imagined(alone, action[None]) for action in actions])

    def rung(kind: type[Engine], **engine: Any) -> Rung:
        made = world(kind, EngineConfig(**engine))
        return lambda: imagined(made, actions)

    alone = world(Uncached, EngineConfig())
    rungs = {
        "naive": naive,
        "context": rung(Uncached, max_batch=1),
        "context cache": rung(ContextCached, max_batch=1),
        "frame cache": rung(FrameCached, max_batch=1),
        "batch": rung(FrameCached),
        "one pass": rung(Engine),
        "bfloat16": rung(Engine, dtype="bfloat16"),
    }
    if config.compile is not False:
        rungs["compile"] = rung(Engine, compile=True)
        rungs["compile, bfloat16"] = rung(Engine, compile=True, dtype="bfloat16")
    return rungs


def measure_engine(config: BenchmarkConfig, scene: Scene) -> dict[str, Any]:
    """Seconds of every rung, how many times faster than the naive one and than the rung before, how far from the
    naive latents; and the same of fewer sampling steps.

    FloatingPointError for a rung that imagines something else.
    """
    rungs, differences = ladder(config, scene), {}
    truth = rungs["naive"]()
    for name, rung in rungs.items():  # compiles and warms up, too
        differences[name] = checked(name, truth, rung())
    seconds = timed(config, rungs)
    previous = {name: before for before, name in zip(rungs, list(rungs)[1:], strict=False)}
    previous |= {"bfloat16": "one pass", "compile": "one pass", "compile, bfloat16": "compile"}
    rows = []
    for name in rungs:
        row: dict[str, Any] = {"rung": name, "seconds": middle(seconds[name]), "all_seconds": seconds[name]}
        row["largest_difference"] = differences[name]
        row["over_naive"] = asdict(ratio(seconds["naive"], seconds[name]))
        if name in previous:
            row |= {"before": previous[name], "over_before": asdict(ratio(seconds[previous[name]], seconds[name]))}
        rows.append(row)
    exact = [row for row in rows if "bfloat16" not in row["rung"]]
    samples, _, horizon = config.plan()
    return {
        "samples": samples,
        "horizon": horizon,
        "sampler": asdict(config.sampler()),
        "weights": scene.weights,
        "rungs": rows,
        "together": best(exact),
        "together_bfloat16": best(rows),
        "bfloat16_helps": any(row["over_before"]["low"] > 1 for row in rows if "bfloat16" in row["rung"]),
        "fewer_steps": fewer_steps(config, scene, "compile" if best(exact)["rung"] == "compile" else "one pass"),
    }


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fastest rung, and how many times faster than the naive one it is."""
    fastest = min(rows, key=lambda row: row["seconds"])
    return {"rung": fastest["rung"], **fastest["over_naive"]}


def checked(name: str, truth: Tensor, imagined: Tensor) -> float:
    """The largest difference of ``imagined`` from ``truth``, of the largest latent; FloatingPointError when it is too
    large to be rounding.
    """
    difference = float((imagined - truth).abs().max() / truth.abs().max())
    allowed = NEAR if "bfloat16" in name else EXACT
    if not difference <= allowed:
        raise FloatingPointError(f"{name} imagines something else than naive: {difference:.1e} apart, not {allowed:g}")
    return difference


def timed(config: BenchmarkConfig, sides: dict[str, Rung]) -> dict[str, list[float]]:
    """Seconds of each side in each repetition, in turns."""
    watch = config.stopwatch()
    with tqdm(total=len(sides) * config.repetitions, desc="engine", unit="run") as progress:
        return in_turns(
            {name: lambda side=side: watch.seconds(side) for name, side in sides.items()},
            config.repetitions,
            on_turn=lambda name: progress.update(),
        )


def fewer_steps(config: BenchmarkConfig, scene: Scene, rung: str) -> list[dict[str, Any]]:
    """For 1, 2 and 4 sampling steps: seconds, how many times faster than 4, and the error on held-out clips."""
    sides = {}
    for steps in STEPS:
        sampled = replace(config, flow_steps=steps, compile=None if rung == "compile" else False)
        sides[str(steps)] = ladder(sampled, scene)[rung]
        sides[str(steps)]()
    seconds = timed(config, sides)
    errors = held_out_errors(config, scene) if scene.trained else {}
    most = str(STEPS[-1])
    return [
        {
            "steps": steps,
            "seconds": middle(seconds[str(steps)]),
            "over_most": asdict(ratio(seconds[most], seconds[str(steps)])),
            "error": errors.get(steps),
        }
        for steps in STEPS
    ]


@torch.no_grad()
def held_out_errors(config: BenchmarkConfig, scene: Scene) -> dict[int, dict[str, float]]:
    """By sampling steps: mean squared error of the latents imagined through the adapter, over that of copying the last
    context frame, with a bootstrap interval over clips.
    """
    length = CONTEXT_FRAMES + max(HORIZONS)
    clips = ClipDataset(config.data or (starter_path(),), length=length, split="validation")
    windows, _ = held_out_windows(clips.episodes, HeldOutConfig(clips=config.clips, strips=0))
    latents = scene.system.codec.encode(windows.frames.to(config.device))
    actions, known = windows.actions.to(config.device), CONTEXT_FRAMES - 1
    context, future = latents[:, :CONTEXT_FRAMES], latents[:, CONTEXT_FRAMES:]
    copied = (context[:, -1:] - future).square().mean()
    errors = {}
    for steps in STEPS:
        world = ColaWorld(scene.system, replace(config.sampler(), steps=steps))
        state = world.imagination.start(context, world.latent_actions(actions[:, :known], context))
        chance = torch.Generator().manual_seed(0)
        imagined = world.imagination.roll_out(state, world.adapted(actions[:, known:]), future.shape[1], chance)
        each = (imagined - future).square().mean(dim=(1, 2, 3, 4)) / copied
        errors[steps] = asdict(bootstrap_mean(each.double().cpu().numpy()))
    return errors
