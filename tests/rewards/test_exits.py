"""`sys.exit()` and its like in somebody's reward end the run with a word, never in silence."""

import asyncio
import sys

import pytest
import torch

from fkdiff import Grid, Tilt, as_reward, sample, steer
from fkdiff.terms.reward import RewardError, evaluate, load_reward
from fkdiff.terms.reward_time import within_seconds
from tests.taps.setups import CALL, shared


class Own(BaseException):
    pass


EXITS = [
    (lambda: sys.exit(), r"it called sys.exit\(\)"),
    (lambda: sys.exit(0), r"it called sys.exit\(0\)"),
    (lambda: sys.exit("no key"), r"it called sys.exit\('no key'\)"),
    (lambda: exec("raise SystemExit(3)"), r"it called sys.exit\(3\)"),
    (lambda: exec("raise GeneratorExit"), "GeneratorExit"),
    (lambda: exec("import asyncio; raise asyncio.CancelledError('x')"), "CancelledError: x"),
    (lambda: exec("raise e", {"e": Own("mine")}), "Own: mine"),
]
assert issubclass(asyncio.CancelledError, BaseException)


def leaving(end, after=0):
    """A reward that leaves at its call number `after`."""
    calls = []

    def score(x):
        calls.append(1)
        if len(calls) > after:
            end()
        return x.flatten(1).mean(1)

    return score


@pytest.mark.parametrize(("end", "words"), EXITS)
@pytest.mark.parametrize("wrap", [as_reward, lambda f: within_seconds(as_reward(f), 9.0),
                                  lambda f: 2 * as_reward(f) + 1])  # fmt: skip
def test_whatever_ends_a_reward_is_told(end, words, wrap):
    with pytest.raises(RewardError, match=words):
        evaluate(wrap(leaving(end)), torch.zeros(2, 3, 1, 1))


def test_a_steered_run_keeps_what_was_made():
    tiny = shared("sd")
    steered = steer(tiny.pipe, Tilt(leaving(sys.exit, after=1)), particles=2, seed=0)
    with pytest.raises(RewardError, match=r"at step \d of 3 .*sys.exit"):
        steered(**{**CALL, **tiny.call})
    assert steered.partial is not None and not steered.partial.complete


def test_loops_tell_it_too():
    reward = as_reward(leaving(lambda: sys.exit(0)), inputs="latents")
    with pytest.raises(RewardError, match="sys.exit"):
        sample(lambda x, a, s: -x, Grid.vp(4, prediction="score"), Tilt(reward), shape=(2,))


def test_an_interrupt_stays_one():
    def stopped(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(as_reward(stopped), torch.zeros(2, 3, 1, 1))


@pytest.mark.parametrize(
    "code",
    ["import sys; sys.exit(0)", "raise SystemExit", "quit()", "raise KeyError('a')",
     "class E(BaseException): pass\nraise E('x')"],
)  # fmt: skip
def test_a_file_or_module_that_leaves_at_import_is_refused(code, tmp_path, monkeypatch):
    (tmp_path / "leaving_module.py").write_text(code + "\n")
    with pytest.raises(RewardError, match="failed when run: "):
        load_reward(f"{tmp_path / 'leaving_module.py'}:fn")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RewardError, match="can't be imported"):
        load_reward("leaving_module:fn")


def test_a_factory_that_leaves_is_refused(tmp_path):
    (tmp_path / "makes.py").write_text("import sys\n\ndef fn(a=1):\n    sys.exit(0)\n")
    with pytest.raises(RewardError, match=r"can't be made \(it called sys.exit\(0\)\)"):
        load_reward(f"{tmp_path / 'makes.py'}:fn")
