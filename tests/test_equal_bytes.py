"""Equal contents give equal bytes, so that files can be compared and cached."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from fkdiff import report
from fkdiff.files import with_sorted_metadata
from fkdiff.sequences.guides import Hemolysis, save_guide
from fkdiff.taps.snapshot_file import write_tree
from tests.report.test_report import SHAPES


def a_run(folder):
    report.save(SHAPES["no samples"](), folder)
    return folder / "result.safetensors"


def a_snapshot(folder):
    file = folder / "snapshot.safetensors"
    write_tree(file, {"x": torch.ones(3)}, {"seed": 1})
    return file


def a_guide(folder):
    guide = Hemolysis()
    save_guide(guide, folder / "guide.safetensors", 0.5, 2.0)
    return folder / "guide.safetensors"


@pytest.mark.parametrize("made", [a_run, a_snapshot, a_guide])
def test_equal_contents_give_equal_bytes(made, tmp_path):
    files = [made(tmp_path / str(number)) for number in range(12)]
    with safe_open(files[0], "pt") as file:
        assert len(file.metadata()) > 2  # else there is no order that could differ
    assert len({file.read_bytes() for file in files}) == 1


def test_contents_stay():
    tensors = {"a": torch.arange(5), "é": torch.ones(2, 3, dtype=torch.float16)}
    for about in (None, {}, {"b": "ü", "a": "x" * 7, "c": "\n"}):
        data = with_sorted_metadata(save(tensors, about))
        found = load(data)
        assert found.keys() == tensors.keys()
        assert all(found[name].equal(tensors[name]) for name in tensors)
