"""Find the line of user code behind a torch call."""

from __future__ import annotations

import os
import sys
from types import FrameType

import torch

from robomimic_vae_ext.gradient_flow.events import Frame, Site

_MAX_FRAMES = 12
_TORCH_FOLDER = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Decorators of the standard library (contextlib under torch.no_grad) are nobody's training code.
_STDLIB_FOLDER = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def _is_user_code(filename: str) -> bool:
    if filename.startswith((_TORCH_FOLDER, _OWN_FOLDER, "<frozen")):
        return False
    # site-packages lies inside the library folder on most systems and is user code here.
    return not filename.startswith(_STDLIB_FOLDER) or "site-packages" in filename


def find_site(until: FrameType | None = None) -> Site:
    """The user's frames from the innermost outwards.

    Args:
        until: frame in which the recording was opened; the walk ends with it, since what lies
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
    """Number of frames above the caller, to tell a nested call from a later one."""
    depth = 0
    frame = sys._getframe(1).f_back
    while frame is not None:
        depth += 1
        frame = frame.f_back
    return depth
