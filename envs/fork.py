"""Drawing in a process that was forked from one that had drawn, such as a worker of an asynchronous vector environment.

Mesa's software rasteriser draws with threads, which a fork leaves behind: in the child, everything of the display that
the parent opened waits for them for ever. So the child draws on a display of its own (Mesa's surfaceless platform,
the same rasteriser) and never touches what it inherited. Where there is no such platform (a vendor's GL), only workers
that are not forked can draw.
"""

import os

_SURFACELESS = 0x31DD  # EGL_PLATFORM_SURFACELESS_MESA
_drawing_process: int | None = None


def draw_in_this_process() -> None:
    """To be called before anything of EGL, when MuJoCo draws through it; does something only after a fork.

    Raises RuntimeError where a forked process cannot draw.
    """
    global _drawing_process
    inherited, _drawing_process = _drawing_process not in (None, os.getpid()), os.getpid()
    if inherited:
        _open_another_display()


def _open_another_display() -> None:
    global _drawing_process
    import mujoco.egl
    from OpenGL import EGL

    try:
        vendor = EGL.eglQueryString(mujoco.egl.EGL_DISPLAY, EGL.EGL_VENDOR)
        display = mujoco.egl.egl_ext.eglGetPlatformDisplayEXT(_SURFACELESS, None, None)
        EGL.eglInitialize(display, None, None)
        same = EGL.eglQueryString(display, EGL.EGL_VENDOR) == vendor
    except EGL.EGLError:
        same = False
    if not same:  # another vendor's pictures would differ
        _drawing_process = -1  # so that the next picture says so again
        raise RuntimeError(
            "this process was forked from one that had drawn pictures, and cannot draw; "
            "start workers with vector_kwargs={'context': 'spawn'}"
        )
    mujoco.egl.EGL_DISPLAY = display
