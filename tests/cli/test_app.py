"""The page of `fkdiff app`: in a real browser, and what it makes of a run without one."""

import socket
import threading
import time
import zipfile
from pathlib import Path

import pytest

from fkdiff.commands import app
from fkdiff.commands.live_run import Finished, Studio
from fkdiff.commands.live_view import finished_view, glimpse_view, plain_view
from fkdiff.commands.request import Request
from fkdiff.commands.stops import Stop
from tests.cli.browsers import asked_of, chromium
from tests.report.clouds import invented

WAIT = 90  # seconds: an upper bound for a busy machine, not what it takes


def until(condition, what):
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited for {what}")


@pytest.fixture
def page(here, bundled):
    """Address of a served page of the tiny bundled model."""
    pytest.importorskip("gradio", reason="gradio isn't installed: extra app")
    from fkdiff.commands.live_page import build
    from fkdiff.commands.live_server import Runs, serve

    runs = Runs()
    site = serve(build(["emoji"], ["brightness"], runs, own=False), runs, "127.0.0.1", 0)
    yield site.lock.address
    site.close()


def test_in_a_browser_a_run_finishes_and_an_error_is_a_message(page, here, tmp_path):
    with chromium(tmp_path / "profile") as browser:
        saved = {"behavior": "allow", "downloadPath": str(tmp_path / "saved")}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", saved)
        browser.get(page)

        def one(selector):
            return next(iter(browser.find_elements("css selector", selector)), None)

        def state(name):
            return one(f"#view .fk[data-state={name}]")

        until(lambda: one("#draw"), "the page")
        assert "Nothing drawn yet" in until(lambda: state("ready"), "the view").text
        one("#draw").click()
        view = until(lambda: state("finished"), "the end of the run")
        assert "a cat and a pizza on a blue background" in view.text
        widths = "return [...document.querySelectorAll('#view img')].map(i => i.naturalWidth)"
        drawn = until(lambda: (w := browser.execute_script(widths)) and all(w) and w, "pictures")
        assert len(drawn) >= 9  # eight particles and the course with its lineage
        one("#folder").click()
        archive = until(lambda: next(tmp_path.glob("saved/*.zip"), None), "the download")
        names = zipfile.ZipFile(archive).namelist()
        assert "report.html" in names and "images/0007.png" in names

        prompt = one("#prompt textarea")
        prompt.clear()
        prompt.send_keys("a <i>kat</i>")
        one("#draw").click()
        # It slides in; text that isn't to be seen yet counts as none.
        told = until(lambda: (toast := one(".toast-body.error")) and toast.text, "the message")
        assert "'kat'" in told and "cat" in told
        assert state("failed") is not None
        assert all(url.startswith(page.partition("?")[0]) for url in asked_of(browser))
        assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert sorted(p.name for p in (here / "runs").iterdir()) == [
        "a-cat-and-a-pizza-on-a-blue-background"
    ]


@pytest.fixture
def asked(here, model):
    return Request(
        prompts=("a <b>cat</b>",),
        model=str(model),
        reward="mine.py:bright",
        particles=3,
        scale=50.0,
        steps=4,
        height=32,
        width=32,
        window="0,1",
        out=Path("run"),
    )


def test_a_run_is_told_transition_by_transition(asked):
    studio = Studio([asked.reward])
    *seen, last = studio.run(studio.prepare(asked))
    assert [glimpse.done for glimpse in seen] == [1, 2, 3, 4]
    assert isinstance(last, Finished) and last.page.is_file()
    assert [float(t.ess[0]) for t in last.result.trace] == list(seen[-1].ess)
    assert all(len(g.pictures) == 3 for g in seen if g.rewards)  # what the reward looked at
    text = glimpse_view(seen[-1])
    assert "Step 4 of 4" in text and text.count("<figure") == 3 and "polyline" in text
    kept = studio._loaded
    studio.prepare(asked)
    assert studio._loaded.pipe is kept.pipe  # the next run loads nothing


def test_a_run_that_nobody_watches_ends_and_keeps_what_it_made(asked):
    studio = Studio([asked.reward])
    before = threading.active_count()
    events = studio.run(studio.prepare(asked))
    assert next(events).done == 1
    events.close()
    assert threading.active_count() == before
    assert "Incomplete run" in (Path("run") / "report.html").read_text()


def test_failures_and_refusals_are_stops(asked):
    from dataclasses import replace

    studio = Studio(["mine.py:nan_later"])
    with pytest.raises(Stop, match="--particles must be at least 1"):
        studio.prepare(replace(asked, particles=0))
    failing = studio.prepare(replace(asked, reward="mine.py:nan_later"))
    with pytest.raises(Stop, match="NaN"):
        list(studio.run(failing))


def test_views_are_escaped():
    nasty = "<img src=x onerror=alert(1)>"
    text = finished_view(invented(prompts=(nasty,), particles=2), nasty) + plain_view("x", nasty)
    assert "<img src=x" not in text and text.count("&lt;img src=x") >= 3


def test_without_gradio_the_command_says_what_to_install(fkdiff, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    code, out, error = fkdiff("app")
    assert (code, out) == (2, "") and "pip install 'fkdiff[app]'" in error


def test_a_taken_port_and_code_that_is_missing_are_refused(fkdiff, here):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, error = fkdiff("app", "--port", taken.getsockname()[1])
    assert code == 2 and "--port" in error and "can't be used" in error
    code, _, error = fkdiff("app", "--reward", "missing.py:f")
    assert code == 2 and "--reward" in error and "doesn't exist" in error
    code, _, error = fkdiff("app", "--port", 70000)
    assert code == 2 and "--port" in error


def test_the_lists_offer_what_draws_and_what_is_ready():
    assert app._models() == ["emoji"]
    offered = app._rewards()
    assert {"emoji-clip", "brightness"} <= set(offered)
    assert not {"classifier", "loudness", "uncropped"} & set(offered)
