"""One thread, no network, no chatter: set before any test imports a model library."""

import os
import socket
import traceback
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

ATTEMPTS: list[str] = []
"""Connections that anything tried to make to elsewhere since the first import, with its place."""


def _watch() -> None:
    """Refuse Python's own connections to other machines, and remember them."""
    usual = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        local = not isinstance(address, tuple) or address[0] in ("localhost", "127.0.0.1", "::1")
        if not local:
            importing = any("importlib" in f.filename for f in traceback.extract_stack())
            ATTEMPTS.append(f"{'import' if importing else 'call'}: {address}")
            raise OSError("tests have no network")
        usual(self, address)

    socket.socket.connect = connect  # pyright: ignore[reportAttributeAccessIssue]


_watch()

import torch  # noqa: E402  (the variables are read at import)

torch.set_num_threads(1)  # sums run in one order, and small matrices are faster
