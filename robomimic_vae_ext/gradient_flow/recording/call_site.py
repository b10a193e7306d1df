"""The line of user code behind a torch call."""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import PurePath
from types import FrameType
from typing import NamedTuple

import torch

_MAX_FRAMES = 12
_TORCH_FOLDER = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
# Decorators of the standard library (contextlib under torch.no_grad) are not training code.
_STDLIB_FOLDER = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


class Frame(NamedTuple):
    """One line of user code on the way to a torch call."""

    file: str
    line: int
    function: str

    @property
    def where(self) -> str:
        """`file.py:line`, short enough for a table."""
        return f"{PurePath(self.file).name}:{self.line}"

    @property
    def text(self) -> str:
        """The source line, stripped; empty where the source is not available."""
        return linecache.getline(self.file, self.line).strip()


class Site(NamedTuple):
    """The user's part of the call stack, innermost frame first.

    `rooted`: the last frame is the one that opened the recording.
    """

    frames: tuple[Frame, ...]
    rooted: bool = False

    @property
    def where(self) -> str:
        """`file.py:line` of the innermost frame of user code."""
        return self.frames[0].where if self.frames else "unknown line"

    @property
    def line(self) -> int:
        """Line number of the innermost frame, 0 where unknown."""
        return self.frames[0].line if self.frames else 0

    @property
    def trail(self) -> str:
        """`torch_utils.py:215 < bcq.py:431`: where it happened and who called it."""
        return " < ".join(frame.where for frame in self.frames[:3]) or "unknown line"


NOWHERE = Site(())


def find_site(until: FrameType | None = None) -> Site:
    """The user's frames from the innermost outwards.

    Args:
        until: frame in which the recording was opened; the search ends there, since what lies
            above the `with` statement is not part of the training code.

    Returns:
        A site of at most 12 frames outside torch, this package and the standard library.
    """
    frames: list[Frame] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(frames) < _MAX_FRAMES:
        code = frame.f_code
        if _is_user_code(code.co_filename):
            frames.append(Frame(code.co_filename, frame.f_lineno, code.co_name))
        if frame is until:
            return Site(tuple(frames), rooted=True)
        frame = frame.f_back
    return Site(tuple(frames))


def caller_frame() -> FrameType | None:
    """The innermost live frame of user code, which holds the `with record(...)`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_user_code(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def stack_depth() -> int:
    """Number of frames above the caller, to distinguish a nested call from a later one."""
    depth = 0
    frame = sys._getframe(1).f_back
    while frame is not None:
        depth += 1
        frame = frame.f_back
    return depth


def _is_user_code(filename: str) -> bool:
    if filename.startswith((_TORCH_FOLDER, _OWN_FOLDER, "<frozen")):
        return False
    # site-packages lies inside the library folder on most systems and is user code here.
    return not filename.startswith(_STDLIB_FOLDER) or "site-packages" in filename
