"""Offscreen pictures with robosuite: fast, the same everywhere, and safe.

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

    The model is changed rather than the renderer, so that pictures are the same wherever the XML
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

    robosuite leaves that to whoever came last. Two environments in one process then draw into
    each other, and when the garbage collector finds an old render context, robosuite's `free`
    releases the thread's current one, whichever that is: from then on pictures are whatever the
    memory held, without any error.
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
        # Freed in another context, the numbers of our buffers would mean that context's buffers.
        with suppress(Exception):  # a context that failed to start, or the end of the process
            self.gl_ctx.make_current()
            super().__del__()


def own_render_context(env: Any) -> None:
    """Give a robosuite environment an `OwnContext`, if it renders offscreen and has none yet."""
    if env.has_offscreen_renderer and not isinstance(env.sim._render_context_offscreen, OwnContext):
        # The old one goes first: what it releases at its end would else be the new one.
        env.sim._render_context_offscreen = None
        OwnContext(env.sim, device_id=env.render_gpu_device_id)  # registers itself with the sim


@contextmanager
def _numbered_device() -> Iterator[None]:
    """Let robosuite render where CUDA_VISIBLE_DEVICES is empty, -1, or names GPUs by their UUID.

    It takes that variable for the number of an EGL device; here it gets the first one. Only while
    it makes the display of this process: it refuses to be imported, as by a worker, where the
    device's number is not part of that variable.
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
    """Render one tiny picture, to learn now rather than in the middle of a run whether it works.

    Args:
        otherwise: what to do without a renderer, for the error.

    Raises:
        SimulationError: no offscreen renderer; names the setting and the package that it needs.
    """
    try:
        sim = MjSim.from_xml_string("<mujoco><worldbody><camera name='c'/></worldbody></mujoco>")
        with _numbered_device():
            OwnContext(sim, device_id=-1)
        sim.render(width=8, height=8, camera_name="c")
        del sim
        gc.collect()  # the probe must not be found later: see OwnContext
    except Exception as error:  # PyOpenGL, EGL and mujoco each raise their own kinds
        raise SimulationError(
            f"MuJoCo cannot render offscreen with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r} "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})",
            "a working EGL",
            f"Set MUJOCO_GL=egl and install the system package libegl1, or {otherwise}.",
        ) from error
