"""The imagination engine, part by part: seconds of one plan from the naive roll-out up to everything.

Every rung is a whole CEM plan (goal and frames to actions, costed in latents) with the same candidates, noise, sampling
steps and guidance, and has to imagine the same latents (bfloat16: nearly). Each adds one thing to a rung before:

- ``naive``: a candidate at a time, the context encoded for each, every sampling step of every frame computed from all
  frames so far, guidance in two passes;
- ``context``: the context's frames are encoded once for all candidates and iterations;
- ``context cache``: its keys and values are, too;
- ``frame cache``: those of imagined frames are remembered;
- ``batch``: all candidates at once;
- ``one pass``: both branches of guidance and the frame to be remembered in one pass, keys and values in place: the
  ``Engine``;
- ``compile``, and ``bfloat16`` without and with it;
- ``batch, no cache``, beside the ladder: ``context`` with all candidates at once, for whoever would not start from a
  candidate at a time.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from colaworld.adapters.world import ColaWorld
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig
from colaworld.experiments.benchmark_planning_steps import fewer_steps
from colaworld.experiments.benchmark_planning_timing import in_turns, middle, ratio
from colaworld.experiments.benchmark_planning_world import Scene, planned, planner_in
from colaworld.models.engine import Engine, EngineConfig
from colaworld.models.imagination import Imagination, Imagined, NextAction, NextFrame

EXACT, NEAR = 1e-3, 0.2
"""How far a rung in float32, and one in bfloat16, may be from the naive roll-out, of its largest latent."""
CHECKED = 4
"""Candidates whose latents are compared."""
BEFORE = {
    "context": "naive",
    "context cache": "context",
    "frame cache": "context cache",
    "batch": "frame cache",
    "one pass": "batch",
    "compile": "one pass",
    "bfloat16": "one pass",
    "compile, bfloat16": "compile",
    "batch, no cache": "context",
}
"""What each rung adds to."""


class Uncached(Engine):
    """Every step of every frame from all frames so far."""

    def roll_out(self, state: Imagined, next_action: NextAction, horizon: int, generator=None, *, noise=None) -> Tensor:
        """As ``Imagination.roll_out_uncached``."""
        return self.roll_out_uncached(state, next_action, horizon, generator, noise=noise)


class ContextCached(Engine):
    """Every step of every frame from the context's keys and values and all frames imagined so far."""

    def _by_cache(self, state: Imagined, horizon: int) -> NextFrame:
        frames, done, device = [], state.cache.frames, state.recent.device

        def next_frame(step: int, recent: Tensor, source: Tensor, actions: Tensor) -> Tensor:
            if step:
                frames.append(recent[:, -1:])
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

            return self._integrated(velocity, source)

        return next_frame


class FrameCached(Engine):
    """Every step of every frame from the keys and values of the frames before."""

    _by_cache = Imagination._by_cache


class Alone(ColaWorld):
    """Nothing is shared: each candidate, in each iteration, begins with the frames again."""

    def start(self, frames: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """What ``ColaWorld.start`` takes, for later."""
        return frames, actions

    def imagine(
        self, state: tuple[Tensor, Tensor], actions: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """As ``ColaWorld.imagine``, with one noise for all."""
        futures = []
        for action in actions:
            source = None if generator is None else generator.clone_state()
            futures.append(super().imagine(super().start(*state), action[None], source))
        return torch.cat(futures)


def ladder(config: BenchmarkConfig, scene: Scene) -> dict[str, ColaWorld]:
    """The rungs by name, in their order."""

    def world(kind: type[Engine], of: type[ColaWorld] = ColaWorld, **engine: Any) -> ColaWorld:
        # Not snapped: a rounding error could tip an action that lies between two codes.
        made, system = of(scene.system, config.sampler(), snap=False), scene.system
        made.imagination = kind(
            system.video, system.conditioner, system.info.flow, config.sampler(), EngineConfig(**engine)
        )
        return made

    rungs = {
        "naive": world(Uncached, Alone),
        "context": world(Uncached, max_batch=1),
        "context cache": world(ContextCached, max_batch=1),
        "frame cache": world(FrameCached, max_batch=1),
        "batch": world(FrameCached),
        "one pass": world(Engine),
        "bfloat16": world(Engine, dtype="bfloat16"),
    }
    if config.compile is not False:
        rungs["compile"] = world(Engine, compile=True)
        rungs["compile, bfloat16"] = world(Engine, compile=True, dtype="bfloat16")
    return {**rungs, "batch, no cache": world(Uncached)}


def measure_engine(config: BenchmarkConfig, scene: Scene) -> dict[str, Any]:
    """Seconds of a plan on every rung, how many times faster than the naive one and than the rung before, how far from
    its latents and its plan; and the same of fewer sampling steps.

    FloatingPointError for a rung that imagines something else.
    """
    rungs, told, truth = ladder(config, scene), {}, None
    planners = {name: planner_in(config, world) for name, world in rungs.items()}
    with tqdm(total=len(rungs) * (config.repetitions + 1), desc="engine", unit="plan") as progress:
        for name, world in rungs.items():  # compiles and warms up, too
            found = latents(config, scene, world)
            truth = found if truth is None else truth
            told[name] = {"latents_apart": checked(name, truth, found), "plan": planned(planners[name], scene)}
            progress.update()
        watch = config.stopwatch()
        seconds = in_turns(
            {name: lambda mpc=mpc: watch.seconds(lambda: planned(mpc, scene)) for name, mpc in planners.items()},
            config.repetitions,
            on_turn=lambda name: progress.update(),
        )
    rows = []
    for name in rungs:
        row: dict[str, Any] = {"rung": name, "seconds": middle(seconds[name]), "all_seconds": seconds[name]}
        row["latents_apart"] = told[name]["latents_apart"]
        plan, naive = told[name]["plan"], told["naive"]["plan"]
        row |= {"actions_apart": float((plan.actions - naive.actions).abs().max()), "plan_cost": plan.cost}
        row["over_naive"] = asdict(ratio(seconds["naive"], seconds[name]))
        if name in BEFORE:
            before = BEFORE[name]
            row |= {"before": before, "over_before": asdict(ratio(seconds[before], seconds[name]))}
        rows.append(row)
    exact = [row for row in rows if "bfloat16" not in row["rung"]]
    fastest = best(exact)["rung"]
    samples, iterations, horizon = config.plan()
    return {
        "samples": samples,
        "iterations": iterations,
        "horizon": horizon,
        "sampler": asdict(config.sampler()),
        "rungs": rows,
        "together": best(exact),
        "together_with_bfloat16": best(rows),
        "over_batch_no_cache": asdict(ratio(seconds["batch, no cache"], seconds[fastest])),
        "fewer_steps": fewer_steps(config, scene, fastest, rungs[fastest]),
    }


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fastest rung, and how many times faster than the naive one it is."""
    fastest = min(rows, key=lambda row: row["seconds"])
    return {"rung": fastest["rung"], **fastest["over_naive"]}


def latents(config: BenchmarkConfig, scene: Scene, world: ColaWorld) -> Tensor:
    """What ``world`` imagines of the first few candidates."""
    samples, _, horizon = config.plan()
    state = world.start(scene.frames, scene.past)
    return world.imagine(state, scene.candidates(min(CHECKED, samples), horizon), torch.Generator().manual_seed(0))


def checked(name: str, truth: Tensor, imagined: Tensor) -> float:
    """The largest difference of ``imagined`` from ``truth``, of the largest latent; FloatingPointError when it is too
    large to be rounding.
    """
    difference = float((imagined - truth).abs().max() / truth.abs().max())
    allowed = NEAR if "bfloat16" in name else EXACT
    if not difference <= allowed:
        raise FloatingPointError(f"{name} imagines something else than naive: {difference:.1e} apart, not {allowed:g}")
    return difference
