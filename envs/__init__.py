"""The room where frames and actions come from. Importing it registers the Gymnasium environments:

``colaworld/LiberoSpatial-v0``, ``LiberoObject-v0``, ``LiberoGoal-v0``, ``Libero10-v0``, ``Libero90-v0`` (``task_id=``),
``colaworld/LiberoGoalReaching-v0`` (``instance=``, ``manifest=``), and ``colaworld/Imagined-v0`` (``world=``,
``start=``). Gymnasium 1.x loads no plugins, so import ``colaworld.envs`` before ``gymnasium.make``.
"""

import gymnasium

from colaworld.envs.quiet import choose_graphics

FRAME_SKIP = 5
# LIBERO's usual caps in control steps (20 Hz); one environment step is FRAME_SKIP of them.
_SUITES = {
    "LiberoSpatial": ("libero_spatial", 280),
    "LiberoObject": ("libero_object", 280),
    "LiberoGoal": ("libero_goal", 300),
    "Libero10": ("libero_10", 520),
    "Libero90": ("libero_90", 400),
}

choose_graphics()
for _name, (_suite, _cap) in _SUITES.items():
    gymnasium.register(
        id=f"colaworld/{_name}-v0",
        entry_point="colaworld.envs.libero:LiberoEnv",
        max_episode_steps=_cap // FRAME_SKIP,
        kwargs={"suite": _suite},
    )
gymnasium.register(
    id="colaworld/LiberoGoalReaching-v0",
    entry_point="colaworld.envs.goals:LiberoGoalReachingEnv",
    max_episode_steps=15,
)
gymnasium.register(
    id="colaworld/Imagined-v0",
    entry_point="colaworld.envs.imagined:ImaginedEnv",
    max_episode_steps=15,
)
