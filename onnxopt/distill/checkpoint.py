"""Files to go on from: written whole or not at all, and read without running what they hold."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from onnxopt.atomic import Files
from onnxopt.errors import BadInput

_VERSION = 2


def write(path: Path, facts: Mapping[str, str], state: Mapping[str, Any]) -> None:
    """Write a state beside the facts of the training that it belongs to. Raises BadOutput."""
    buffer = io.BytesIO()
    torch.save({"version": _VERSION, "facts": dict(facts), "state": dict(state)}, buffer)
    with Files() as files:
        files.new(path).write(buffer.getbuffer())
        files.commit()


def read(path: Path, facts: Mapping[str, str]) -> dict[str, Any]:
    """The state in a file that `write` made for a training of the same facts.

    Raises:
        BadInput: It is no such file, or one of another training; the message says what differs.
    """
    try:
        # Only numbers and names come in: a pickle could run anything.
        held = torch.load(path, map_location="cpu", weights_only=True)
        version, known, state = held["version"], held["facts"], held["state"]
    except Exception as error:  # torch raises what the bytes make it raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadInput(
            f"{path} is not a checkpoint: {reason}",
            hint="name the file that --checkpoint wrote",
        ) from error
    if version != _VERSION:
        raise BadInput(f"{path} is of another version of onnxopt", hint="start the training anew")
    different = sorted(name for name in {*known, *facts} if known.get(name) != facts.get(name))
    if different:
        raise BadInput(
            f"{path} belongs to another training: it differs in {', '.join(different)}",
            hint="resume with the options and files it was started with, or start anew",
        )
    return dict(state)
