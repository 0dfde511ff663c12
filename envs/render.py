"""How a LIBERO scene becomes a picture: named render profiles and one lazily created MuJoCo renderer.

A profile is part of the data: frames of two profiles differ in every pixel, so its name is stored in recordings,
manifests, checkpoints and results, and mixing two is an error. ``full`` is LIBERO's own look (what
``OffScreenRenderEnv`` draws); ``lite`` is the fast one for pictures of up to 128 pixels.

Pictures are uint8 ``(height, width, 3)``, upright and not mirrored: what a person standing behind the camera sees.
(robosuite hands out its raw images upside down; ``raw[::-1]`` is ours.)
"""

import atexit
import os
import weakref
from dataclasses import dataclass

import einops
import mujoco
import numpy as np

from colaworld.envs.decimate import decimate_visual_meshes
from colaworld.envs.gl_context import borrowed_context, uses_egl

MAX_LITE_SIZE = 128
_COLLISION_GROUP, _VISUAL_GROUP = 0, 1


@dataclass(frozen=True, kw_only=True)
class RenderProfile:
    """What may differ between pictures of the same state.

    ``multisamples``: OpenGL's samples a pixel, 0 for none. ``supersample``: draw that many times larger both ways and
    average, which on software GL is four times cheaper than multisampling. ``reflections``, ``shadows``: drawn or not.
    ``mesh_fraction``: share of the triangles kept in dense *visual* meshes; 1.0 leaves them alone.
    ``max_size``: the largest height or width (pixels) the profile may be used for; 0 for no limit.
    """

    name: str
    multisamples: int
    shadows: bool
    reflections: bool
    supersample: int = 1
    mesh_fraction: float = 1.0
    max_size: int = 0

    def __post_init__(self) -> None:
        if self.multisamples < 0:
            raise ValueError(f"render profile {self.name}: multisamples must be 0 or more, got {self.multisamples}")
        if self.supersample < 1:
            raise ValueError(f"render profile {self.name}: supersample must be 1 or more, got {self.supersample}")
        if not 0.0 < self.mesh_fraction <= 1.0:
            raise ValueError(f"render profile {self.name}: mesh_fraction must lie in (0, 1], got {self.mesh_fraction}")


PROFILES = {
    profile.name: profile
    for profile in (
        RenderProfile(name="full", multisamples=4, shadows=True, reflections=True),
        RenderProfile(
            name="lite",
            multisamples=0,
            shadows=True,
            reflections=True,
            supersample=2,
            mesh_fraction=0.05,
            max_size=MAX_LITE_SIZE,
        ),
    )
}


def choose_profile(name: str | None, height: int, width: int) -> RenderProfile:
    """The profile called ``name``; for None "lite" up to 128 pixels and "full" above.

    Raises ValueError for an unknown name, a size below 8 pixels, or a size the profile is not meant for.
    """
    largest = max(height, width)
    if min(height, width) < 8:
        raise ValueError(f"height and width must be at least 8 pixels, got {height}x{width}")
    if name is None:
        name = "lite" if largest <= MAX_LITE_SIZE else "full"
    if name not in PROFILES:
        raise ValueError(f"unknown render_profile {name!r}; known: {', '.join(sorted(PROFILES))}")
    profile = PROFILES[name]
    if profile.max_size and largest > profile.max_size:
        raise ValueError(
            f"render_profile {name!r} is for pictures up to {profile.max_size} pixels, got {height}x{width}; use 'full'"
        )
    return profile


class SceneRenderer:
    """Draws one model's cameras. The GL context is made at the first picture and closed quietly.

    It is current only inside the methods here, so that pictures do not depend on what else draws in the process.
    """

    def __init__(self, model: mujoco.MjModel, profile: RenderProfile, height: int, width: int) -> None:
        self._model = model
        self._profile = profile
        self._height, self._width = height, width
        self._renderer: mujoco.Renderer | None = None
        self._process = os.getpid()
        self._decimated = profile.mesh_fraction == 1.0
        self._option = mujoco.MjvOption()
        self._option.geomgroup[_COLLISION_GROUP] = 0
        self._option.geomgroup[_VISUAL_GROUP] = 1
        _OPEN.add(self)

    def share_of_picture(self, data: mujoco.MjData, camera: str, bodies: set[int]) -> float:
        """Which share of the picture shows geoms of ``bodies`` (ids): 0.0 for none or hidden."""
        self._ready()
        self._renderer.enable_segmentation_rendering()
        try:
            self._renderer.update_scene(data, camera=camera, scene_option=self._option)
            with borrowed_context():
                shown = self._renderer.render()
        finally:
            self._renderer.disable_segmentation_rendering()
        geoms = shown[..., 0][shown[..., 1] == mujoco.mjtObj.mjOBJ_GEOM]
        return float(np.isin(self._model.geom_bodyid[geoms], list(bodies)).sum() / shown[..., 0].size)

    def picture(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Draw ``data`` (its kinematics must be current) from the named camera: uint8 (height, width, 3)."""
        self._ready()
        self._renderer.update_scene(data, camera=camera, scene_option=self._option)
        flags = self._renderer.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._profile.shadows
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = self._profile.reflections
        with borrowed_context():
            large = self._renderer.render()
        scale = self._profile.supersample
        if scale == 1:
            return large
        mean = einops.reduce(large.astype(np.float32), "(h a) (w b) c -> h w c", "mean", a=scale, b=scale)
        return mean.round().astype(np.uint8)

    def close(self) -> None:
        """Free the GL context; the next picture would open a new one."""
        self._leave_inherited()
        if self._renderer is not None:
            with borrowed_context():
                self._renderer.close()
            self._renderer = None

    def _ready(self) -> None:
        """Have a renderer that belongs to this process."""
        self._leave_inherited()
        if self._renderer is None:
            self._renderer = self._open()

    def _leave_inherited(self) -> None:
        """Keep, but never use or free, a renderer of the process from which this one was forked."""
        if self._renderer is not None and self._process != os.getpid():
            _INHERITED.append(self._renderer)
            self._renderer = None
        self._process = os.getpid()

    def _open(self) -> mujoco.Renderer:
        _check_context()
        model = self._model
        model.vis.quality.offsamples = self._profile.multisamples
        width, height = self._width * self._profile.supersample, self._height * self._profile.supersample
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        if not self._decimated:  # once: what is left of a mesh would be decimated again
            decimate_visual_meshes(model, self._profile.mesh_fraction)
            self._decimated = True
        with borrowed_context():
            renderer = mujoco.Renderer(model, height, width)
        _close_at_exit()
        return renderer


def _check_context() -> None:
    if os.environ.get("MUJOCO_GL") == "egl" and not uses_egl():
        raise ValueError(
            "MuJoCo was imported before colaworld.envs and looks for a screen; "
            "import colaworld.envs first or set MUJOCO_GL=egl"
        )


_INHERITED: list[mujoco.Renderer] = []
_OPEN: "weakref.WeakSet[SceneRenderer]" = weakref.WeakSet()


def _close_all() -> None:
    for renderer in list(_OPEN):
        renderer.close()


def _close_at_exit() -> None:
    """Registered anew with every context: handlers run last in, first out, and robosuite's and MuJoCo's end EGL."""
    atexit.unregister(_close_all)
    atexit.register(_close_all)
