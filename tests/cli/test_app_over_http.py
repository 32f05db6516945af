"""The running page of `fkdiff app` over HTTP: who gets in, what it takes, what it runs."""

import json
import re
import socket
import zipfile
from contextlib import contextmanager
from io import BytesIO
from uuid import uuid4

import pytest

pytest.importorskip("gradio", reason="gradio isn't installed: extra app")

import httpx

from fkdiff.commands.live_page import WAITING, build
from fkdiff.commands.live_server import Runs, serve
from tests.cli.conftest import stand_in

MINE = """
from pathlib import Path
Path("ran").touch()

def bright(pixels):
    return pixels.mean((1, 2, 3))

def waits(pixels):
    while not Path("go").exists():
        pass
    return pixels.mean((1, 2, 3))
"""
DRAW = ["a cat", "emoji", "brightness", 2, 4, 2, None, 0, "0,1", False]
CODE = ["mine.py:bright", "mine.py:waits"]
NASTY = "<img src=x onerror=alert(1)>"


@contextmanager
def served(code=CODE, own=True, host="127.0.0.1"):
    runs = Runs()
    site = serve(build(["emoji"], ["brightness"], runs, own=own, code=code), runs, host, 0)
    try:
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    """The page's working folder, with code of the user's and code of a stranger's."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "mine.py").write_text(MINE)
    (folder / "evil.py").write_text(MINE.replace("ran", "sprung"))
    with pytest.MonkeyPatch.context() as patch, stand_in(tmp_path_factory.mktemp("zoo"), model):
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def site(folder):
    with served() as site:
        yield site


@contextmanager
def visited(site):
    """A browser's window: the token at the first visit, the cookie after it."""
    with httpx.Client(base_url=f"http://127.0.0.1:{site.lock.port}", timeout=60) as client:
        assert client.get(site.lock.address).status_code == 200
        yield client


@pytest.fixture
def client(site):
    with visited(site) as client:
        yield client


def asked(**changed):
    names = "prompt model reward particles scale steps guidance seed window plain".split()
    return [changed.get(name, value) for name, value in zip(names, DRAW, strict=True)]


def join(client, data, session):
    config = client.get("/config").json()
    named = {c["id"]: c["props"].get("elem_id") for c in config["components"]}
    draws = [d["id"] for d in config["dependencies"] if named.get(d["targets"][0][0]) == "draw"]
    form = json.dumps({"data": data, "fn_index": draws[0], "session_hash": session})
    headers = {"Content-Type": "application/json"}
    return client.post("/gradio_api/queue/join", content=form, headers=headers)


def events(client, session):
    with client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as lines:
        for line in lines.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def texts(value):
    """All texts within a message."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


def outcome(client, data):
    """The message that a run ends with, all that it showed, and whether it went well."""
    session, shown = uuid4().hex, []
    assert join(client, data, session).status_code == 200
    for event in events(client, session):
        shown += texts((event.get("output") or {}).get("data"))
        if event["msg"] == "process_completed":
            return event["output"].get("error", ""), " ".join(shown), event["success"]


def raw(port, text):
    """Status of a request as it is sent, by no client's rules."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode())
        return int(connection.makefile("rb").readline().split()[1])


OPENED = [
    "/",
    "/config",
    "/gradio_api/info",
    "/gradio_api/queue/data?session_hash=x",
    "/theme.css",
]


@pytest.mark.parametrize("path", [*OPENED, "/runs/x.zip", "/gradio_api/heartbeat/x", "/docs"])
@pytest.mark.parametrize("token", ["", "?token=", "?token=wrong", "?token=%C3%A9"])
def test_nothing_is_read_without_the_token(site, path, token):
    answer = httpx.get(f"http://127.0.0.1:{site.lock.port}{path}{token.replace('?', '?&')}")
    assert answer.status_code == 403 and "set-cookie" not in answer.headers
    assert site.lock.token not in answer.text


def test_the_token_opens_and_the_cookie_keeps_open(site, client):
    assert len(site.lock.token) >= 32
    assert [client.get(path).status_code for path in ("/", "/config", "/theme.css")] == [200] * 3
    first = httpx.get(site.lock.address)
    assert re.search("HttpOnly; SameSite=Strict", first.headers["set-cookie"])
    assert first.headers["referrer-policy"] == "no-referrer"
    client.cookies.set(site.lock.cookie, "wrong", domain="127.0.0.1")
    client.cookies.clear()
    wrong = {site.lock.cookie: "wrong"}
    assert httpx.get(str(client.base_url), cookies=wrong).status_code == 403


@pytest.mark.parametrize(
    "host, status",
    [("127.0.0.1:{}", 200), ("localhost:{}", 200), ("LOCALHOST:{}", 200), ("[::1]:{}", 200),
     ("evil.example:{}", 403), ("evil.example", 403), ("127.0.0.1", 403), ("127.0.0.1:1", 403),
     ("127.0.0.1.evil.example:{}", 403), ("localhost.:{}", 403), ("192.168.0.7:{}", 403),
     ("x\nHost: 127.0.0.1:{}", 403), ("", 403)],
)  # fmt: skip
def test_a_name_that_was_made_to_lead_here_is_refused(site, host, status):
    """DNS rebinding: the browser names the attacker's host, even with the right token."""
    port = site.lock.port
    request = f"GET /?token={site.lock.token} HTTP/1.1\nHost: {host.format(port)}\n"
    assert raw(port, f"{request}Connection: close\n\n") in (status, 400 if status == 403 else 0)


@pytest.mark.parametrize(
    "origin, status",
    [("http://127.0.0.1:{}", 200), ("http://localhost:{}", 200), ("http://evil.example", 403),
     ("http://evil.example:{}", 403), ("null", 403), ("https://127.0.0.1:{}", 403),
     ("http://127.0.0.1", 403), ("", 403)],
)  # fmt: skip
def test_another_page_can_ask_for_nothing(site, client, origin, status):
    headers = {"Origin": origin.format(site.lock.port)}
    assert client.get("/config", headers=headers).status_code == status
    answer = client.post("/gradio_api/cancel", headers=headers, json={})
    assert (answer.status_code == 403) == (status == 403)
    preflight = {**headers, "Access-Control-Request-Method": "POST"}
    assert client.options("/gradio_api/queue/join", headers=preflight).status_code == 403


def test_no_file_is_taken_or_given(site, client, folder):
    files = {"files": ("evil.py", b"import os")}
    for path in (
        "upload",
        "upload/",
        "run-history/connect",
        "component_server",
        "process_recording",
        "stream/x",
    ):
        assert client.post(f"/gradio_api/{path}", files=files).status_code == 403
    for path in ("upload", "upload_progress?upload_id=x", f"file={folder / 'mine.py'}",
                 "file=/etc/passwd", "file/etc/passwd", "proxy=http://127.0.0.1",
                 "mcp/sse", "deep_link", "custom_component/x/y/z", "runs"):  # fmt: skip
        assert client.get(f"/gradio_api/{path}").status_code == 403, path
    for path in ("/monitoring", "/upload", "/static/../routes.py", "/docs", "/openapi.json"):
        answer = raw(site.lock.port, f"GET {path}?token={site.lock.token} HTTP/1.1\n"
                     f"Host: localhost:{site.lock.port}\nConnection: close\n\n")  # fmt: skip
        assert answer == 403, path
    for path in ("run/draw", "api/draw", "call/draw", "call/v2/draw", "vibe-edit"):
        assert client.post(f"/gradio_api/{path}", json={"data": []}).status_code == 403
    for method in ("PUT", "DELETE", "PATCH", "TRACE"):
        assert client.request(method, "/").status_code == 403


@pytest.mark.parametrize(
    "value",
    [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, ["a"],
     {"url": "http://127.0.0.1:9/x", "path": "x", "meta": {"_type": "gradio.FileData"}}],
)  # fmt: skip
def test_a_value_that_stands_for_a_file_is_refused(client, value):
    assert join(client, asked(prompt=value), "one").status_code == 403


def test_a_form_is_short(site, client):
    assert join(client, asked(prompt="a" * 200_000), "one").status_code == 413
    assert client.post("/gradio_api/queue/join", content=iter([b"{}"])).status_code == 411
    assert client.post("/gradio_api/queue/join", content=b"{" * 90_000).status_code == 403


@pytest.mark.parametrize(
    "reward",
    ["evil.py:bright", "./evil.py:bright", "evil.py", "2 * evil.py:bright", "os:system",
     "brightness + evil.py:bright", "minimum(brightness, evil.py:bright)", "per-frame:os:getcwd",
     "mine.py:other", "per-frame:evil.py:bright", "fkdiff.rewards.pixels:Brightness"],
)  # fmt: skip
def test_code_that_was_not_named_at_the_start_is_refused(client, folder, reward):
    runs = list(folder.glob("runs/*"))
    error, shown, success = outcome(client, asked(reward=reward))
    assert not success and "when the page was started" in error and 'data-state="failed"' in shown
    assert not (folder / "sprung").exists() and list(folder.glob("runs/*")) == runs


def test_code_that_was_named_is_run_and_its_edits_count(client, folder):
    for reward in ("mine.py:bright", "brightness + mine.py:bright"):
        assert outcome(client, asked(reward=reward, seed=1))[2]
    edited = MINE.replace("pixels.mean((1, 2, 3))", "pixels.new_full((len(pixels),), 7.25)")
    (folder / "mine.py").write_text(edited)
    assert "7.25" in outcome(client, asked(reward="mine.py:bright"))[1]


def test_an_edited_module_is_refused(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    (folder / "a_module.py").write_text(MINE)
    with served(code=["a_module:bright"]) as site, visited(site) as client:
        assert outcome(client, asked(reward="a_module:bright"))[2]
        (folder / "a_module.py").write_text(f"{MINE}\n")
        error, _, success = outcome(client, asked(reward="a_module:bright"))
    assert not success and "start fkdiff app again" in error


@pytest.mark.parametrize(
    "changed, rule",
    [({"steps": 10**9}, "Steps must be a whole number in [1, 1000], got 1000000000"),
     ({"steps": float("nan")}, "Steps must"), ({"steps": float("inf")}, "Steps must"),
     ({"scale": float("nan")}, "Scale must"), ({"guidance": float("-inf")}, "Guidance must"),
     ({"steps": 0}, "Steps must be"), ({"steps": 2.5}, "Steps must be a whole number"),
     ({"steps": "many"}, "Steps must be"), ({"steps": True}, "Steps must be"),
     ({"particles": 33}, "Particles must be a whole number in [1, 32], got 33"),
     ({"particles": None}, "Particles must be"), ({"particles": 0}, "Particles must be"),
     ({"particles": 2.5}, "Particles must be a whole number in [1, 32], got 2.5"),
     ({"scale": 1e300}, "Scale must be a number in [0, 20], got 1e+300"),
     ({"guidance": 101}, "Guidance must be a number in [0, 100]"),
     ({"seed": -1}, "Seed must be a whole number in [0, 9007199254740991], got -1"),
     ({"seed": 2**63}, "Seed must be"), ({"window": "9,1"}, "--window must be"),
     ({"window": "0," * 40}, "Window must be a text of at most 40"), ({"model": None}, "Model"),
     ({"prompt": "a " * 1500}, "Prompt must be a text of at most 2000 characters"),
     ({"prompt": "a\0cat"}, "null bytes"), ({"plain": "x" * 9}, "Plain must be true or false"),
     ({"reward": "brightness+" * 60}, "Reward must be a text of at most 500 characters")],
)  # fmt: skip
def test_settings_have_bounds(client, folder, changed, rule):
    runs = list(folder.glob("runs/*"))
    error, _, success = outcome(client, asked(**changed))
    assert not success and rule in error.replace("&#x27;", "'")
    assert list(folder.glob("runs/*")) == runs


def test_a_full_queue_says_so(client, folder):
    slow = asked(reward="mine.py:waits")
    assert join(client, slow, "first").status_code == 200
    started = events(client, "first")
    assert any(event["msg"] == "process_starts" for event in started)
    try:
        waiting = [join(client, asked(), f"s{n}").status_code for n in range(WAITING)]
        refused = join(client, asked(), "late")
    finally:
        (folder / "go").touch()
    assert waiting == [200] * WAITING
    assert refused.status_code == 503 and "Queue is full" in refused.json()["detail"]
    assert any(event["msg"] == "process_completed" for event in started)


def test_a_run_is_given_as_an_archive_and_nothing_else_is(client, folder):
    _, shown, success = outcome(client, asked(prompt="a pizza"))
    assert success and 'href="/runs/a-pizza.zip"' in shown
    names = zipfile.ZipFile(BytesIO(client.get("/runs/a-pizza.zip").content)).namelist()
    assert "report.html" in names and "images/0001.png" in names
    (folder / "runs" / "other").mkdir()
    for name in ("other.zip", "mine.py", "..%2fmine.py", "a-pizza"):
        assert client.get(f"/runs/{name}").status_code in (403, 404)


def test_what_is_typed_is_shown_as_text(client):
    error, shown, success = outcome(client, asked(reward=NASTY))
    assert not success and NASTY not in error + shown and "&lt;img" in error


def test_on_other_addresses_only_the_lists_count(folder):
    with served(own=False) as site, visited(site) as client:
        assert outcome(client, asked(reward="mine.py:bright"))[2]
        for changed in ({"reward": "2 * brightness"}, {"model": str(folder)}):
            error, _, success = outcome(client, asked(**changed))
            assert not success and "one of this page&#x27;s list" in error


@pytest.mark.parametrize(
    "host, name, known",
    [("0.0.0.0", "192.168.0.7", True), ("0.0.0.0", "evil.example", False),
     ("0.0.0.0", socket.gethostname(), True), ("127.0.0.1", socket.gethostname() + "x", False),
     ("box.lan", "box.lan", True), ("box.lan", "192.168.0.7", False), ("::1", "[::1]", True)],
)  # fmt: skip
def test_names_of_the_page(host, name, known):
    from fkdiff.commands.live_guard import Lock

    assert Lock(host, 7860, "secret").knows(f"{name}:7860") is known
