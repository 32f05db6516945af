"""The server of `fkdiff app`: gradio's page behind a guard, on a port that is ours before it."""

import io
import secrets
import socket
import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from fkdiff.commands.live_guard import Guard, Lock

__all__ = ["Runs", "Site", "serve"]

_FIRST_PORT, _PORTS = 7860, 100
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
_CSS = Path(__file__).parent.parent / "report" / "app.css"


@dataclass(frozen=True)
class Runs:
    """Folders of runs that the page made, by the names under which it gives them."""

    folders: dict[str, Path] = field(default_factory=dict)

    def offer(self, folder: Path) -> str:
        """Path on the page under which the run can be downloaded."""
        name = f"{folder.name}.zip"
        self.folders[name] = folder.resolve()
        return f"/runs/{name}"

    async def answer(self, request: Request) -> Response:
        """The archive of a run; 404 for any other name."""
        folder = self.folders.get(request.path_params["name"])
        if folder is None or not folder.is_dir():
            return PlainTextResponse("Not Found. No such run.\n", 404)
        archive = await run_in_threadpool(_zipped, folder)
        return Response(archive, media_type="application/zip")


@dataclass(frozen=True)
class Site:
    """A page that is being served.

    Arguments:
        lock: Its names and secret; `lock.address` opens it.
        server: Its server.
        thread: Thread in which the server runs.
    """

    lock: Lock
    server: uvicorn.Server
    thread: threading.Thread

    def close(self) -> None:
        """End the server and wait for it."""
        self.server.should_exit = True
        self.thread.join()


def serve(page: gr.Blocks, runs: Runs, host: str, port: int | None) -> Site:
    """Serve a page from a thread until it is closed; nothing is fetched from elsewhere.

    Arguments:
        page: The page.
        runs: Runs that it gives as downloads.
        host: Address to listen on.
        port: Port, 0 for any that is free, None for the first free one from 7860.

    Raises:
        OSError: If the port is taken or the address isn't this machine's.
    """
    bound = _bound(host, port)
    lock = Lock(host, bound.getsockname()[1], secrets.token_urlsafe(24))
    guarded = Guard(_mounted(page, runs), lock)
    quiet: Any = {"log_level": "warning", "access_log": False, "proxy_headers": False}
    server = uvicorn.Server(uvicorn.Config(guarded, timeout_graceful_shutdown=1, **quiet))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        thread.join(0.01)
    return Site(lock, server, thread)


def _mounted(page: gr.Blocks, runs: Runs) -> FastAPI:
    """The page with its downloads, without documentation of its routes."""
    parent = FastAPI(openapi_url=None)
    parent.add_route("/runs/{name}", runs.answer)
    theme = gr.themes.Base(font=_FONTS, font_mono=_MONO, primary_hue="blue")
    faint = "*neutral_500"  # of gradio's own greys the first that is easy to read on white
    theme = theme.set(body_text_color_subdued=faint, block_info_text_color=faint)
    page.is_running = True  # else gradio never beats on an open queue
    return gr.mount_gradio_app(
        parent,
        page,
        path="/",
        ssr_mode=False,
        footer_links=[],
        run_history=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
        pwa=False,
        theme=theme,
        css_paths=_CSS,
    )


def _bound(host: str, port: int | None) -> socket.socket:
    """Return a listening socket, whose port is known before the address is printed."""
    kind, *_, place = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
    ports = range(_FIRST_PORT, _FIRST_PORT + _PORTS) if port is None else (port,)
    for number in ports:
        try:
            return socket.create_server((place[0], number), family=kind)
        except OSError as error:
            if number == ports[-1]:
                raise OSError(f"{host}:{number} can't be used: {error.strerror}") from None
    raise AssertionError("no port was tried")


def _zipped(folder: Path) -> bytes:
    """A folder's files as a zip archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            written.write(file, file.relative_to(folder))
    return archive.getvalue()
