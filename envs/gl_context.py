"""Whose OpenGL context is current: ours only while it draws, then whoever's it was before.

Freeing OpenGL objects deletes them *by number in the context that is current*, whoever made them. robosuite's renderer
frees its textures and framebuffers (on ``close``, or whenever Python collects it) without making its own context
current, so in a context of ours left current it would delete our shadow map and textures of the same numbers; and it
draws into whatever context is current. Hence a context of ours must never stay current between two pictures.
"""

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import mujoco

from colaworld.envs.fork import draw_in_this_process


@contextmanager
def borrowed_context() -> Iterator[None]:
    """Put the thread's current EGL context (or none) back afterwards, and collect no garbage meanwhile.

    Everything that creates, uses or frees a `mujoco.Renderer` belongs inside; it makes its own context current. Other
    backends than EGL have their own ways with contexts and are left alone.
    """
    collecting = gc.isenabled()
    gc.disable()  # a collected renderer of someone else's would free its objects in the context we are drawing with
    try:
        if uses_egl():
            draw_in_this_process()
            with _same_egl_context_afterwards():
                yield
        else:
            yield
    finally:
        if collecting:
            gc.enable()


def uses_egl() -> bool:
    """Whether MuJoCo draws through EGL in this process."""
    context = getattr(mujoco, "GLContext", None)  # its module has moved between versions of MuJoCo
    return getattr(context, "__module__", "").endswith(".egl")


@contextmanager
def _same_egl_context_afterwards() -> Iterator[None]:
    from OpenGL import EGL  # only now: MuJoCo has chosen PyOpenGL's platform

    EGL.eglBindAPI(EGL.EGL_OPENGL_API)  # releasing a thread resets it, and all calls below speak of the bound API
    context, display = EGL.eglGetCurrentContext(), EGL.eglGetCurrentDisplay()
    surfaces = EGL.eglGetCurrentSurface(EGL.EGL_DRAW), EGL.eglGetCurrentSurface(EGL.EGL_READ)
    try:
        yield
    finally:
        EGL.eglBindAPI(EGL.EGL_OPENGL_API)
        if context:
            EGL.eglMakeCurrent(display, *surfaces, context)
        elif EGL.eglGetCurrentContext():
            none = EGL.EGL_NO_SURFACE
            EGL.eglMakeCurrent(EGL.eglGetCurrentDisplay(), none, none, EGL.EGL_NO_CONTEXT)


@functools.cache
def renderer_name() -> str:
    """Who rasterises: OpenGL's renderer and version, e.g. "llvmpipe (LLVM 15.0.6, 256 bits), OpenGL 4.5 ...".

    Raises whatever the GL library raises where no context can be made.
    """
    with borrowed_context():
        context = mujoco.GLContext(8, 8)
        try:
            context.make_current()
            from OpenGL import GL  # only now: MuJoCo has chosen PyOpenGL's platform

            parts = [GL.glGetString(name) for name in (GL.GL_RENDERER, GL.GL_VERSION)]
        finally:
            context.free()
    return ", OpenGL ".join((part or b"unknown").decode(errors="replace") for part in parts)
