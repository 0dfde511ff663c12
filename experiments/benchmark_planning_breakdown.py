"""Where the seconds of a plan go, against the arithmetic floor of the device: the plan's floating-point operations over
what the device computes a second in one large matrix product.

The plan is the evaluation's own (``vp2_eval.py``'s flags, the preset's samples x iterations x horizon), costed in
blurred pixels, as evaluations do, and in latents, with and without compiled code. Its parts:

- ``encode``: goal and context to latents, the context's keys and values;
- ``draw``: candidates drawn;
- ``imagine``: their future frames sampled, and those of the chosen plan once more;
- ``cost``: decoding where pixels are compared, and the comparison;
- ``update``: the refit;
- ``rest``: what is left.

Seconds of the whole plan are measured without any of this; the parts in further plans with it, in turns.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from colaworld.adapters.world import ColaWorld
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig
from colaworld.experiments.benchmark_planning_timing import in_turns, mean_of, middle
from colaworld.experiments.benchmark_planning_world import Scene, planned, planner_in
from colaworld.models.engine import DTYPES
from colaworld.planning.mpc import MPC

PARTS = ("encode", "draw", "imagine", "cost", "update", "rest")
MATRIX = {False: 1024, True: 8192}
"""Rows of the matrices multiplied on a CPU and on a GPU."""
PRODUCTS = 8
"""How many products make one measurement."""


class Spans:
    """How far ``reading`` (a clock, a count of operations) moves inside of each part."""

    def __init__(self, reading: Callable[[], float]) -> None:
        self.reading = reading
        self.spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What happens inside belongs to ``part``."""
        begun = self.reading()
        yield
        self.spent[part] += self.reading() - begun


class Watched:
    """``inner``, whose calls to ``parts`` (by name; ``__call__`` for itself) belong to a part of the plan each."""

    def __init__(self, inner: Any, spans: Spans, parts: dict[str, str]) -> None:
        self.inner, self.spans, self.parts = inner, spans, parts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name not in self.parts:
            return found

        def watched(*arguments: Any) -> Any:
            with self.spans.of(self.parts[name]):
                return found(*arguments)

        return watched

    def __call__(self, *arguments: Any) -> Any:
        with self.spans.of(self.parts["__call__"]):
            return self.inner(*arguments)


class WatchedPrior(Watched):
    """A prior whose distributions are watched when candidates are drawn."""

    def distribution(self, horizon: int) -> Watched:
        """The first of a search."""
        return Watched(self.inner.distribution(horizon), self.spans, {"sample": "draw"})


class WatchedPlanner(Watched):
    """A planner whose updates are, and the distributions that they make."""

    def update(self, distribution: Watched, *arguments: Any) -> Watched:
        """As the planner's."""
        with self.spans.of("update"):
            refitted = self.inner.update(distribution.inner, *arguments)
        return Watched(refitted, self.spans, {"sample": "draw"})


def watched(mpc: MPC, reading: Callable[[], float]) -> Spans:
    """Have every part of ``mpc`` watched from now on."""
    spans = Spans(reading)
    mpc.world = Watched(mpc.world, spans, {"encode": "encode", "start": "encode", "imagine": "imagine"})
    mpc.objective = Watched(mpc.objective, spans, {"__call__": "cost"})
    mpc.prior, mpc.planner = WatchedPrior(mpc.prior, spans, {}), WatchedPlanner(mpc.planner, spans, {})
    return spans


def parts_of(spans: Spans, work: Callable[[], object]) -> dict[str, float]:
    """What ``work`` spends in each of ``PARTS``."""
    spans.spent.clear()
    begun = spans.reading()
    work()
    whole = spans.reading() - begun
    return {**{part: spans.spent[part] for part in PARTS[:-1]}, "rest": whole - sum(spans.spent.values())}


def operations(config: BenchmarkConfig, scene: Scene, objective: str) -> dict[str, float]:
    """Floating-point operations of every part of a plan; attention counts as the products that it is made of."""
    world = ColaWorld(scene.system, engine=replace(config.engine(), compile=False))
    counter = FlopCounterMode(display=False)
    mpc = planner_in(config, world, objective)
    spans = watched(mpc, counter.get_total_flops)
    with counter, sdpa_kernel(SDPBackend.MATH):
        return parts_of(spans, lambda: planned(mpc, scene))


def matmul_speed(config: BenchmarkConfig) -> Callable[[], float]:
    """Measures operations a second of a large matrix product in the imagination's type."""
    size, watch = MATRIX[config.on_gpu], config.stopwatch()
    matrix = torch.randn(size, size, device=config.device).to(DTYPES[config.engine().dtype])
    out = matrix @ matrix

    def measure() -> float:
        seconds = watch.seconds(lambda: [torch.mm(matrix, matrix, out=out) for _ in range(PRODUCTS)])
        return PRODUCTS * 2 * size**3 / seconds

    return measure


def measure_breakdown(config: BenchmarkConfig, scene: Scene) -> dict[str, Any]:
    """Seconds of a plan and of its parts, its operations, and how many times its floor it takes, for every variant."""
    compiled = (False, True) if config.compile is None else (config.compile,)
    variants = {
        f"{objective}{', compiled' if code else ''}": (objective, code)
        for objective in ("pixel", "latent")
        for code in compiled
    }
    watch, parts = config.stopwatch(), defaultdict(list)
    speed = matmul_speed(config)
    sides: dict[str, Callable[[], float]] = {"matmul": speed}
    worlds = {code: ColaWorld(scene.system, engine=replace(config.engine(), compile=code)) for code in compiled}
    for name, (objective, code) in variants.items():
        mpc, seen = (planner_in(config, worlds[code], objective) for _ in range(2))
        spans = watched(seen, watch.now)

        def by_parts(name: str = name, spans: Spans = spans, seen: MPC = seen) -> float:
            parts[name].append(parts_of(spans, lambda: planned(seen, scene)))
            return 1.0

        sides[name] = lambda mpc=mpc: watch.seconds(lambda: planned(mpc, scene))
        sides[f"{name}, parts"] = by_parts
    with tqdm(total=len(sides) * (config.repetitions + 1), desc="breakdown", unit="turn") as progress:
        for side in sides.values():  # compiles and warms up
            side()
            progress.update()
        parts.clear()
        found = in_turns(sides, config.repetitions, on_turn=lambda name: progress.update())
    peak, rows = middle(found["matmul"]), []
    for name, (objective, _) in variants.items():
        flops, seconds = operations(config, scene, objective), middle(found[name])
        rows.append(
            {
                "variant": name,
                "seconds": seconds,
                "interval": asdict(mean_of(found[name])),
                "all_seconds": found[name],
                "parts": {part: middle([each[part] for each in parts[name]]) for part in PARTS},
                "operations": flops,
                "floor_seconds": sum(flops.values()) / peak,
                "times_floor": seconds * peak / sum(flops.values()),
            }
        )
    samples, iterations, horizon = config.plan()
    return {
        "samples": samples,
        "iterations": iterations,
        "horizon": horizon,
        "engine": {"dtype": config.engine().dtype},
        "matmul_gflops": peak / 1e9,
        "matmul_all_gflops": [each / 1e9 for each in found["matmul"]],
        "variants": rows,
    }
