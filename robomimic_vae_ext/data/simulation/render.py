"""Offscreen rendering with robosuite: fast, reproducible, and safe with several environments.

Measured for one 84x84 frame with Mesa's software EGL on one core: 42-55 ms as robosuite ships the
scene, 18 ms without reflections, about 10 ms without reflections and multisampling. The size of
the shadow map and of the frame buffer make no further difference: the rest is vertex work.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from xml.etree import ElementTree

from robosuite.utils.binding_utils import MjRenderContextOffscreen, MjSim

from robomimic_vae_ext.errors import SimulationError

_DEVICE: Final = "MUJOCO_EGL_DEVICE_ID"


def simplify_rendering(root: ElementTree.Element) -> None:
    """Turn reflections and multisampling off in a MuJoCo model, in place.

    The model is changed rather than the renderer, so that images are the same wherever the XML
    is loaded: in a rollout, in `playback_dataset.py`, or in MuJoCo's own viewer.

    Args:
        root: the `<mujoco>` element.
    """
    for material in root.iter("material"):
        if "reflectance" in material.attrib:
            material.set("reflectance", "0")
    visual = root.find("visual")
    if visual is None:
        visual = ElementTree.SubElement(root, "visual")
    quality = visual.find("quality")
    if quality is None:
        quality = ElementTree.SubElement(visual, "quality")
    quality.set("offsamples", "0")


class OwnContext(MjRenderContextOffscreen):
    """A render context that makes its own GL context current before it uses it.

    robosuite does not. Two environments in one process then draw into each other's buffers, and
    when an old render context is garbage collected, robosuite's `free` releases the current
    context of the thread, even if it belongs to another environment: later images then have
    undefined content, without any error.
    """

    def render(self, *args: Any, **kwargs: Any) -> None:
        """Draw the scene into this context's buffer; arguments are robosuite's."""
        self.gl_ctx.make_current()
        super().render(*args, **kwargs)

    def read_pixels(self, *args: Any, **kwargs: Any) -> Any:
        """Return what `render` drew; arguments are robosuite's."""
        self.gl_ctx.make_current()
        return super().read_pixels(*args, **kwargs)

    def __del__(self) -> None:
        # Buffer numbers are per context: freed in another one, its buffers would be deleted.
        with suppress(Exception):  # the context failed to start, or the process ends
            self.gl_ctx.make_current()
            super().__del__()


def own_render_context(env: Any) -> None:
    """Give a robosuite environment an `OwnContext`, if it renders offscreen and has none yet."""
    if env.has_offscreen_renderer and not isinstance(env.sim._render_context_offscreen, OwnContext):
        # The old one first: otherwise it would release the new one when it is deleted.
        env.sim._render_context_offscreen = None
        OwnContext(env.sim, device_id=env.render_gpu_device_id)  # registers itself with the sim


@contextmanager
def _numbered_device() -> Iterator[None]:
    """Let robosuite render where CUDA_VISIBLE_DEVICES is empty, -1, or names GPUs by their UUID.

    robosuite reads that variable as the number of an EGL device; here it gets the first one. Only
    while the display of this process is created: robosuite refuses to be imported, for example by
    a worker, if MUJOCO_EGL_DEVICE_ID is not part of CUDA_VISIBLE_DEVICES.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    if all(device.strip().isdigit() for device in visible.split(",")) or _DEVICE in os.environ:
        yield
        return
    os.environ[_DEVICE] = "0"
    try:
        yield
    finally:
        del os.environ[_DEVICE]


def require_rendering(
    otherwise: str = "leave the cameras out for low-dimensional data",
) -> None:
    """Render one tiny image, to find out before a long run whether rendering works.

    Args:
        otherwise: what to do without a renderer, for the error message.

    Raises:
        SimulationError: no offscreen renderer; names the setting and the package that it needs.
    """
    try:
        sim = MjSim.from_xml_string("<mujoco><worldbody><camera name='c'/></worldbody></mujoco>")
        with _numbered_device():
            OwnContext(sim, device_id=-1)
        sim.render(width=8, height=8, camera_name="c")
        del sim
        gc.collect()  # delete the test context now: see OwnContext
    except Exception as error:  # PyOpenGL, EGL and mujoco raise different classes
        raise SimulationError(
            f"MuJoCo cannot render offscreen with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r} "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
            "a working EGL",
            f"Set MUJOCO_GL=egl and install the system package libegl1, or {otherwise}.",
        ) from error
