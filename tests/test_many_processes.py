"""One cloud over many processes: the bits of one, and no one waits for who failed."""

import json
import multiprocessing
import socket
import subprocess
import sys

import pytest
import torch.multiprocessing
from safetensors.torch import load_file

from fkdiff.cli import main
from fkdiff.commands.launched import place
from tests.shared_runs import CASES, COMPARED, commanded, dying, identity
from tests.tiny import build

NAMES = list(CASES)


def launched(function, processes, *arguments):
    """Run a function in processes that start from one that has imported everything."""
    multiprocessing.set_forkserver_preload(["tests.shared_runs"])
    return torch.multiprocessing.start_processes(
        function, arguments, processes, join=False, start_method="forkserver"
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process found, by rank."""
    folder = tmp_path_factory.mktemp("group")
    context = launched(identity, 4, str(folder), NAMES)
    while not context.join():
        pass
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(4)]


def alone(found, name):
    return found[NAMES.index(name) % 4][f"{name} alone"]


@pytest.mark.parametrize("name", NAMES)
def test_many_processes_find_the_bits_of_one(found, name):
    expected = alone(found, name)
    for rank in range(CASES[name][0]):
        mine = found[rank][name]
        differ = [k for k, v in expected["digests"].items() if mine["digests"].get(k) != v]
        assert differ == [], rank
        assert mine["digests"].keys() == expected["digests"].keys()
        assert mine["spent"][0] == expected["spent"][0]
        assert mine["spent"][2] == expected["spent"][2]  # no sample is scored twice anywhere
        assert expected["crossed"] > 0 or name == "plain"


def test_a_shared_run_goes_on_at_the_last_state_that_all_have(found):
    first, second = (found[rank]["kept"] for rank in (0, 1))
    assert second["killed"] == "InterruptedError: killed"
    assert first["killed"] == "PeerError: process 1 of 2 failed: InterruptedError: killed"
    assert (first["named"], second["named"]) == (2, 1)
    for each in (first, second):
        assert each["rest"]["digests"] == found[0]["kept alone"]["digests"]
        assert each["rest"]["spent"] == found[0]["kept alone"]["spent"]
        assert each["calls"] <= 2  # the third and the fourth step alone
        assert each["torn"].startswith("SnapshotError: ")
        assert "of different steps, or some are gone; delete them" in each["torn"]


@pytest.mark.parametrize("name", COMPARED)
def test_what_is_left_behind_would_be_noticed(found, name):
    expected = alone(found, "solver")["digests"]
    differ = [k for k, v in expected.items() if found[0][f"control {name}"]["digests"].get(k) != v]
    assert "latents" in differ


REFUSED = {
    "few particles": "ValueError: particles must be at least 2, one for each process",
    "large micro-batch": "of its own, got 8 for 4 particles; set micro_batch=6",
    "a mask": "TapError: group must be None for a call with image: StableDiffusionInpaint",
    "an image": "TapError: group must be None for a call with image: FluxImg2ImgPipeline draws",
    "another seed": "the seed must be the same on all processes of the group",
    "another call": "the call must be the same on all processes of the group",
    "no group": "TypeError: group must be a process group that this process belongs to",
    "goes on after": "nothing was refused",
    **dict.fromkeys(
        (
            "a reward by rank",
            "a monitor by rank",
            "a reward of latents by rank",
            "a reward of sounds by rank",
            "a reward by rank in sample",
        ),
        "TrialError: reward 'by_rank' must give the same value on every process of the group",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_t_be_shared_is_refused_by_all(found, name):
    for rank in (0, 1):
        assert REFUSED[name] in found[rank]["refusals"][name]


def test_a_failure_is_told_to_all(found):
    first, second = (found[rank]["refusals"]["raises"] for rank in (0, 1))
    assert second.startswith("RewardError: reward 'failing' failed at step 2 of 4 for particle 3")
    assert first.startswith("PeerError: process 1 of 2 failed: RewardError: reward 'failing'")
    assert "no more ink" in first and "no more ink" in second
    first, second = (found[rank]["refusals"]["raises at the end"] for rank in (0, 1))
    assert first == "OSError: the disk is full"
    assert second == "PeerError: process 0 of 2 failed: OSError: the disk is full"


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_nobody_waits_for_a_process_that_is_gone(how, tmp_path):
    context = launched(dying, 2, str(tmp_path), how)
    context.processes[0].join(300)
    assert context.processes[0].exitcode == 0
    context.processes[1].kill()
    told = json.loads((tmp_path / "0.json").read_text())
    assert told["told"].startswith("PeerError: another of the group's 2 processes was lost")
    assert told["seconds"] < 200


REWARDS = """
import os

calls = []

def bright(pixels):
    return pixels.mean((1, 2, 3))

def third_fails(pixels):
    calls.append(1)
    if os.environ.get("RANK") == "1" and len(calls) == 3 and not os.path.exists("mended"):
        raise ArithmeticError("no more ink")
    return pixels.mean((1, 2, 3))
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command's folder, and its words for a reward and a folder of the run."""
    here = tmp_path_factory.mktemp("here")
    (here / "mine.py").write_text(REWARDS)
    build("sd").pipe.save_pretrained(here / "tiny")

    def words(reward, out):
        small = ("--height", 32, "--width", 32, "--steps", 3, "--particles", 3)
        given = ("--model", here / "tiny", "--reward", f"{here}/mine.py:{reward}", "--scale", 400)
        more = ("--micro-batch", 1, "--window", "0,1", "--ess", 1, "--out", out)
        return ["generate", "a cat", *map(str, (*given, *small, *more))]

    return here, words


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def together(here, words):
    context = launched(commanded, 2, str(here), free_port(), words)
    while not context.join():
        pass
    return [json.loads((here / f"{rank}.json").read_text()) for rank in range(2)]


def test_the_same_command_line_shares_the_particles_out(command, monkeypatch):
    """Really started, by accelerate; without GPUs its --multi_gpu starts them on the CPU."""
    here, words = command
    given = ("--multi_gpu", "--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no")
    more = ("--dynamo_backend", "no", "--main_process_port", free_port(), "-m", "fkdiff.cli")
    launch = (sys.executable, "-m", "accelerate.commands.launch", *given, *more)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = subprocess.run(
        [*map(str, launch), *words("bright", "two"), "--device", "cpu"],
        cwd=here, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report: two/report.html") == 1
    assert not list((here / "two").glob("snapshot*"))
    monkeypatch.chdir(here)
    assert main(words("bright", "one")) == 0
    one, two = (load_file(here / out / "result.safetensors") for out in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(two[name].equal(value) for name, value in one.items())
    assert json.loads((here / "two" / "result.json").read_text())["settings"]["processes"] == 2


def test_a_failure_ends_the_command_on_all(command):
    here, words = command
    found = together(here, words("third_fails", "failed"))
    assert [each["code"] for each in found] == [1, 1]
    assert all("no more ink" in each["errors"] for each in found)
    assert "process 1 of 2 failed: RewardError" in found[0]["errors"]
    assert (here / "failed" / "result.json").exists()  # what the first process had made
    assert "go on with: fkdiff generate --resume failed" in found[0]["errors"]
    words = ["generate", "--resume", "failed", "--reward", f"{here}/mine.py:third_fails"]
    (here / "mended").touch()
    found = together(here, words)
    assert [each["code"] for each in found] == [0, 0], found[0]["errors"] + found[1]["errors"]
    assert "Report: failed/report.html" in found[0]["told"] and found[1]["told"] == ""
    assert not list((here / "failed").glob("snapshot*"))


def test_one_process_where_more_were_asked_for_is_told(monkeypatch):
    """Without MPI, accelerate starts no more than one on CPUs."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.warns(UserWarning, match="starts one process alone on CPUs"):
        assert place() == (0, 1)
