"""Puts what a recording's model XML says of objects and fixtures into the installed model.

robosuite draws more at a reset than the simulator's state holds: where Door's door is, the size of
Lift's cube, TwoArmHandover's hammer, Wipe's marks. The XML of robosuite 1.4 cannot be loaded in
1.5, so positions, orientations and sizes are taken from it by name. Robots are left as they are.
The XML is read as text: no file that it names is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final
from xml.etree import ElementTree

import mujoco
import numpy as np

from robomimic_vae_ext.errors import DatasetError

LARGEST_XML: Final = 20_000_000  # characters
_ROBOT: Final = re.compile(r"(robot|gripper|mount|base|fixed_base)\d")
_ATTRIBUTES: Final = {"body": ("pos", "quat"), "geom": ("pos", "quat", "size"), "site": ("pos",)}
_OTHER_TURNS: Final = ("euler", "axisangle", "xyaxes", "zaxis", "fromto")
_DEFAULTS: Final = {"pos": (0.0, 0.0, 0.0), "quat": (1.0, 0.0, 0.0, 0.0)}
# MuJoCo writes six digits.
_ROUNDING: Final = 2e-6
# What follows from positions and sizes. Not colours: robosuite hides its markers at a reset.
_COPIED: Final = (
    "geom_pos", "geom_quat", "geom_size", "geom_rbound", "geom_aabb", "bvh_aabb", "site_pos",
    "body_ipos", "body_iquat", "body_mass", "body_inertia", "body_subtreemass", "body_invweight0",
    "dof_invweight0", "dof_M0",
)  # fmt: skip

Values = dict[tuple[str, str], dict[str, np.ndarray]]


def read_model_xml(text: Any, where: str) -> ElementTree.Element:
    """Parse a model's XML without trusting it.

    Args:
        text: of a recording.
        where: name of the demonstration for messages.

    Raises:
        DatasetError: it is not the XML of a MuJoCo model.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    found = ""
    if not isinstance(text, str) or len(text) > LARGEST_XML:
        found = f"of type {type(text).__name__}" if not isinstance(text, str) else "too long"
    elif "<!DOCTYPE" in text or "<!ENTITY" in text:
        found = "XML with a document type or entities"
    else:
        try:
            root = ElementTree.fromstring(text)
            found = "" if root.tag == "mujoco" else f"XML of <{root.tag[:40]}>"
        except (ElementTree.ParseError, ValueError) as error:
            found = f"no XML ({str(error)[:80]})"
    if found:
        raise DatasetError(
            f"{where}: model_file is {found}",
            "the XML of the model that was recorded",
            "Repair this attribute, or delete it if the state holds everything that varies.",
        )
    return root


def has_model_xml(text: Any) -> bool:
    """Whether this is XML rather than nothing, or the name of a file as in robosuite 1.0."""
    return ("<" in text) if isinstance(text, str) else isinstance(text, bytes) and b"<" in text


def named_values(root: ElementTree.Element, where: str) -> Values:
    """Return `pos`, `quat` and `size` of every named object and fixture, as far as they are given.

    Robots are left out, and bodies that move freely: their poses are part of the state.
    """
    return {
        (element.tag, str(element.get("name"))): _numbers(element, where)
        for element in _walk(root)
        if element.get("name")
    }


def _walk(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Give bodies, geoms and sites of everything but robots."""
    stack = list(root.findall("worldbody"))
    while stack:
        for child in stack.pop():
            if child.tag == "body":
                if _ROBOT.match(child.get("name", "")):
                    continue
                stack.append(child)
                if _is_free(child):
                    continue
            if child.tag in _ATTRIBUTES and child.get("mesh") is None:
                yield child


def _is_free(body: ElementTree.Element) -> bool:
    joints = body.findall("joint")
    return body.find("freejoint") is not None or any(j.get("type") == "free" for j in joints)


def _numbers(element: ElementTree.Element, where: str) -> dict[str, np.ndarray]:
    found = {}
    for key in _ATTRIBUTES[element.tag]:
        text = element.get(key)
        if text is None or any(element.get(other) is not None for other in _OTHER_TURNS):
            continue
        try:
            # robosuite 1.0 wrote some as "[0, 0, 0.005]".
            values = np.array(
                [float(word) for word in re.split(r"[\s,\[\]]+", text.strip("[] "))[:4]]
            )
        except ValueError:
            values = np.array([np.nan])
        usable = len(values) and np.isfinite(values).all()
        if not usable or (key == "quat" and (len(values) != 4 or not values.any())):
            raise DatasetError(
                f"{where}: model_file has {key} {text[:40]!r} of {element.get('name')}",
                "numbers",
                "Repair this attribute, or delete it if the state holds everything that varies.",
            )
        found[key] = values
    return found


def _aliases(tag: str, name: str) -> tuple[str, ...]:
    """Return what robosuite 1.5 calls an object of robosuite 1.0."""
    return (f"{name}_main",) if tag == "body" else (f"{name}_g0", f"{name}_g0_vis")


class ModelRestorer:
    """Puts recorded values into the model of an environment, one demonstration after another.

    Args:
        env: a robosuite environment, whose resets are soft.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.xml: str = env.model.get_xml()
        root = ElementTree.fromstring(self.xml)
        #: Everything that a recording may say something of.
        self.names = {str(item.get("name")) for item in _walk(root) if item.get("name")}
        model = env.sim.model._model
        self.bodies = model.body_pos.copy(), model.body_quat.copy()
        self.applied: tuple[str, mujoco.MjModel] | None = None

    def reset(self, root: ElementTree.Element | None, where: str) -> tuple[str, ...]:
        """Reset the environment, then set its model to what a recording says.

        Args:
            root: of the recorded XML; None gives what the reset draws.
            where: name of the demonstration for messages.

        Returns:
            Names of what the recording says, whether it differs or not.

        Raises:
            DatasetError: MuJoCo cannot compile the model with these values.
        """
        model = self.env.sim.model._model
        model.body_pos[:], model.body_quat[:] = self.bodies
        self.env.reset()
        recorded = {} if root is None else named_values(root, where)
        tree = ElementTree.fromstring(self.xml)
        installed = {(item.tag, str(item.get("name"))): item for item in _walk(tree)}
        named: set[tuple[str, str]] = set()
        for (tag, name), values in recorded.items():
            keys = [(tag, name)] if (tag, name) in installed else []
            keys = keys or [(tag, alias) for alias in _aliases(tag, name)]
            for key in keys:
                if key in installed:
                    named.add(key)
                    _set_values(installed[key], values)
        self._put(ElementTree.tostring(tree, encoding="unicode"), where)
        source = self.applied[1] if self.applied else model
        for tag, name in named:
            if tag == "body":  # resets write the others
                model.body(name).pos[:], model.body(name).quat[:] = (
                    source.body(name).pos,
                    source.body(name).quat,
                )
        return tuple(sorted({name for _, name in named}))

    def _put(self, xml: str, where: str) -> None:
        """Copy what follows from a compiled model's sizes into that of the environment."""
        if self.applied is None or self.applied[0] != xml:
            try:
                self.applied = xml, mujoco.MjModel.from_xml_string(xml)
            except ValueError as error:
                raise DatasetError(
                    f"{where}: the sizes or poses of model_file cannot be used ({str(error)[:80]})",
                    "those of a model of this environment",
                    "Repair this attribute, or leave out the demonstration.",
                ) from error
        for name in _COPIED:
            getattr(self.env.sim.model._model, name)[...] = getattr(self.applied[1], name)


def _set_values(element: ElementTree.Element, values: dict[str, np.ndarray]) -> None:
    """Write values that differ by more than rounding."""
    if any(element.get(other) is not None for other in _OTHER_TURNS):
        return
    for key, value in values.items():
        text = element.get(key)
        if text is None and key not in _DEFAULTS:
            continue
        before = np.array([float(w) for w in text.split()]) if text else np.array(_DEFAULTS[key])
        if key == "size":  # MuJoCo may add zeros, and some are written without them
            value, before = value[: len(before)], before[: len(value)]
        if value.shape != before.shape:
            continue
        if key == "quat":
            value, before = value / np.linalg.norm(value), before / np.linalg.norm(before)
            before = before * (-1 if (value * before).sum() < 0 else 1)
        if np.abs(value - before).max() > _ROUNDING * max(1.0, float(np.abs(before).max())):
            element.set(key, " ".join(f"{number:.9g}" for number in value))


def drawn_at_reset(env: Any, hard: int = 3, soft: int = 20) -> dict[str, float]:
    """Find what resets write into the model, so that it is not part of the state.

    Args:
        env: a robosuite environment, which is reset and reloaded.
        hard: number of resets that load the model anew.
        soft: number of resets of the last model.

    Returns:
        For each name the largest spread of its position, orientation or size.
    """
    seen: dict[tuple[str, str], list[np.ndarray]] = {}
    before = env.hard_reset
    try:
        for sample in range(hard + soft):
            env.hard_reset = sample < hard
            env.reset()
            model = env.sim.model._model
            if env.hard_reset:
                elements = list(_walk(ElementTree.fromstring(env.model.get_xml())))
            for element in elements:
                name = element.get("name")
                if not name:
                    continue
                view = getattr(model, element.tag)(name)
                parts = [view.pos, view.quat] if element.tag != "site" else [view.pos]
                parts += [view.size] if element.tag == "geom" else []
                seen.setdefault((element.tag, name), []).append(np.concatenate(parts))
    finally:
        env.hard_reset = before
    spread = {name: float(np.ptp(np.array(rows), axis=0).max()) for (_, name), rows in seen.items()}
    return {name: size for name, size in spread.items() if size > _ROUNDING}
