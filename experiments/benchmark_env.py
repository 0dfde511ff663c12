"""How fast the environment is: ``python experiments/benchmark_env.py``; and with ``--resets 200``, whether it leaks.

Steps ``colaworld``'s LIBERO environment and LIBERO's own ``OffScreenRenderEnv`` through the same control steps in the
same process, taking turns so that a busy machine slows both, and prints environment steps (of ``frame_skip`` control
steps) per second.
"""

import gc
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from colaworld.envs.libero import LiberoEnv
from colaworld.envs.quiet import libero
from colaworld.experiments.cli import main
from colaworld.experiments.memory_growth import Growth, memory_growth


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Environment steps per second of both, ``ratio`` between them, and how far the two simulations ended apart."""

    suite: str
    task_id: int
    height: int
    width: int
    frame_skip: int
    render_profile: str
    steps: int
    colaworld_steps_per_second: float
    plain_steps_per_second: float
    ratio: float
    restores_per_second: float
    largest_difference: float


def benchmark(
    suite: str = "libero_goal",
    task_id: int = 0,
    size: int = 64,
    steps: int = 10,
    render_profile: str | None = None,
    resets: int = 0,
    environments: int = 5,
    json_file: Path | None = None,
) -> None:
    """Print the speed of both environments, or with ``--resets`` how the memory of ours grows.

    Args:
        suite: one of LIBERO's five suites.
        task_id: task of the suite, from 0.
        size: height and width of the pictures, pixels.
        steps: environment steps that each environment takes.
        render_profile: "lite" or "full"; by default what the environment chooses for the size.
        resets: measure resident memory over so many resets (at least 4) instead of speed.
        environments: environments made and closed after these resets.
        json_file: write the figures here too.
    """
    if resets:
        growth = memory_growth(suite, task_id, size, resets, environments)
        print_growth(growth)
        write(json_file, growth)
        return
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    speed = measure(suite, task_id, size, steps, render_profile)
    print(f"{suite} task {task_id}, agentview {size}x{size}, {steps} steps of {speed.frame_skip} control steps each")
    print(f"  colaworld ({speed.render_profile}): {speed.colaworld_steps_per_second:6.2f} environment steps/s")
    print(f"  plain OffScreenRenderEnv:  {speed.plain_steps_per_second:6.2f} environment steps/s")
    print(f"  ratio {speed.ratio:.1f}; restoring a state with its picture: {speed.restores_per_second:.1f}/s")
    print(f"  largest difference of positions after {steps} steps: {speed.largest_difference:.1e}")
    write(json_file, speed)


def print_growth(growth: Growth) -> None:
    """Resident memory at a few of the resets, and after each environment."""
    marks = np.unique(np.linspace(0, growth.resets - 1, 5).astype(int))
    told = ", ".join(f"{growth.after_resets[mark]:.1f} after {mark + 1}" for mark in marks)
    print(f"{growth.resets} resets of one environment, MiB resident: {told}")
    print(f"  {growth.slope:+.2f} MiB for 100 resets (second half)")
    if growth.after_environments:
        print(f"environments made and closed, MiB resident: {', '.join(map(str, growth.after_environments))}")
    if growth.each_environment is not None:
        print(f"  {growth.each_environment:+.2f} MiB for one more environment (after the first)")


def write(json_file: Path | None, figures: Growth | Speed) -> None:
    """Write ``figures`` as JSON, if there is a place for them."""
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(figures), indent=1) + "\n")


def measure(suite: str, task_id: int, size: int, steps: int, render_profile: str | None) -> Speed:
    """Both environments through the same smooth random actions from LIBERO's initial state 0."""
    env = LiberoEnv(suite, task_id, height=size, width=size, render_profile=render_profile)
    libero()
    from libero.libero.envs import OffScreenRenderEnv

    plain = OffScreenRenderEnv(
        bddl_file_name=env.scene.bddl_file, camera_names=["agentview"], camera_heights=size, camera_widths=size
    )
    plain.seed(0)
    plain.reset()
    plain.set_init_state(env.scene.initial_states[0])
    plain.robots[0].controller.new_update = True  # see colaworld.envs.scene: aim from the pose that the arm is in
    env.scene.set_initial(env.scene.initial_states[0])
    start = env.get_state()
    actions = np.random.default_rng(0).uniform(-0.7, 0.7, (steps, 7))
    env.picture()  # opens the GL context, as the reset of the plain environment did
    ours = theirs = 0.0
    for action in actions:
        begun = time.perf_counter()
        env.step(action)
        plain.sim._render_context_offscreen.gl_ctx.make_current()  # robosuite draws into whatever context is current
        middle = time.perf_counter()
        for _ in range(env.frame_skip):
            plain.step(action)
        ours, theirs = ours + middle - begun, theirs + time.perf_counter() - middle
    difference = float(np.abs(plain.sim.data.qpos - env.scene.data.qpos).max())
    begun = time.perf_counter()
    for _ in range(steps):
        env.restore_state(start)
    restoring = time.perf_counter() - begun
    env.close()
    plain.close()
    del plain
    gc.collect()  # robosuite frees its GL context only when its objects go
    return Speed(
        suite=suite,
        task_id=task_id,
        height=size,
        width=size,
        frame_skip=env.frame_skip,
        render_profile=env.render_profile,
        steps=steps,
        colaworld_steps_per_second=steps / ours,
        plain_steps_per_second=steps / theirs,
        ratio=theirs / ours,
        restores_per_second=steps / restoring,
        largest_difference=difference,
    )


if __name__ == "__main__":
    main(benchmark)
