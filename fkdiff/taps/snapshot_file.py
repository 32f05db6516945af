"""A tree of tensors and numbers as one safetensors file: versioned, checked, without pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from fkdiff.files import with_sorted_metadata, write_whole
from fkdiff.taps.coefficients import TapError

__all__ = [
    "VERSION",
    "SnapshotError",
    "Tree",
    "fits",
    "packed",
    "read_tree",
    "unpacked",
    "write_tree",
]

VERSION = 2
_KIND = "fkdiff snapshot"
_PLAIN = (bool, int, float, str)

Tree: TypeAlias = Any
"""None, numbers, texts, tensors, and lists, tuples and dictionaries (keys are texts) of them."""


class SnapshotError(TapError):
    """A snapshot that can't be used, and what to do."""


def fits(value: Any) -> bool:
    """Whether a value can be part of a tree.

    >>> fits({"history": [torch.zeros(2), None], "step": 3}), fits(object())
    (True, False)
    """
    if type(value) is dict:
        return all(isinstance(key, str) and fits(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(fits, value))
    return value is None or isinstance(value, Tensor) or type(value) in _PLAIN


def write_tree(path: Path, tree: Mapping[str, Tree], about: Mapping[str, Any]) -> None:
    """Write a tree, and what JSON knows about it, in one move.

    Arguments:
        path: The file.
        tree: What to keep; tensors of any device and type.
        about: Stands in the file's header, such as the settings of the run.

    Raises:
        OSError: If the file can't be written; an older one stays as it is.
    """
    tensors: dict[str, Tensor] = {}
    texts = {"tree": json.dumps(packed(tree, tensors)), "about": json.dumps(dict(about))}
    head = {"kind": _KIND, "version": str(VERSION), **texts}
    head["checksum"] = _checksum(texts, tensors)
    write_whole(path, with_sorted_metadata(to_safetensors(tensors, head)))


def read_tree(path: Path) -> tuple[dict[str, Tree], dict[str, Any]]:
    """The tree and what stands about it; tensors are on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        SnapshotError: If the file is no snapshot, of another version, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} doesn't exist")
    try:
        with safe_open(path, "pt") as file:
            head = file.metadata() or {}
            _check_kind(path, head)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        texts = {name: head[name] for name in ("tree", "about")}
        if head.get("checksum") != _checksum(texts, tensors):
            raise ValueError("its checksum is another")
        tree, about = unpacked(json.loads(texts["tree"]), tensors), json.loads(texts["about"])
        if not (isinstance(tree, dict) and isinstance(about, dict)):
            raise ValueError("it holds no run")
    except (SnapshotError, OSError):
        raise
    except Exception as error:  # whatever strange bytes may bring about
        raise SnapshotError(
            f"{path} is damaged ({' '.join(str(error).split())}); delete it to start anew"
        ) from None
    return tree, about


def _check_kind(path: Path, head: Mapping[str, str]) -> None:
    if head.get("kind") != _KIND:
        raise SnapshotError(f"{path} is no snapshot of fkdiff; choose another folder")
    if head.get("version") != str(VERSION):
        raise SnapshotError(
            f"{path} has version {head.get('version')} of the format, this fkdiff reads {VERSION};"
            f" go on with the fkdiff that wrote it, or delete it to start anew"
        )


def _checksum(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name, text in sorted(texts.items()):
        found.update(f"{name}:{len(text)}:{text}".encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def packed(tree: Tree, tensors: dict[str, Tensor]) -> Any:
    """The tree with its tensors named, ready for JSON; the tensors are put into `tensors`."""
    if isinstance(tree, Tensor):
        name = f"{len(tensors):05d}"
        tensors[name] = tree.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {"dict": {key: packed(item, tensors) for key, item in tree.items()}}
    if isinstance(tree, list):
        return [packed(item, tensors) for item in tree]
    if isinstance(tree, tuple):
        return {"tuple": [packed(item, tensors) for item in tree]}
    if tree is not None and type(tree) not in _PLAIN:
        raise TypeError(f"a snapshot can't keep {type(tree).__name__}")
    return tree


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Tree:
    """The tree of what `packed` made."""
    if isinstance(value, list):
        return [unpacked(item, tensors) for item in value]
    if isinstance(value, dict):
        ((kind, inner),) = value.items()
        if kind == "tensor":
            return tensors[inner]
        if kind == "tuple":
            return tuple(unpacked(item, tensors) for item in inner)
        if kind == "dict":
            return {key: unpacked(item, tensors) for key, item in inner.items()}
        raise ValueError(f"it holds a {kind!r}")
    return value
