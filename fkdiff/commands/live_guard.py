"""Who may open the page of `fkdiff app`, and what of gradio's server is open at all."""

import re
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fkdiff.files import json_of

__all__ = ["Guard", "Lock", "is_local"]

_READ = r"""/ | /config/? | /theme\.css | /favicon\.ico | /manifest\.json | /runs/[\w.-]+\.zip
    | /(assets|static|svelte)/[\w./@+-]+
    | /gradio_api/(info | theme\.css | queue/data | heartbeat/\w+)"""
_WRITE = r"/gradio_api/(queue/join | cancel | reset/?)"
_OPEN = {
    "GET": re.compile(_READ, re.VERBOSE),
    "HEAD": re.compile("/"),
    "POST": re.compile(_WRITE, re.VERBOSE),
}
_MANIFEST = "/manifest.json"  # the page's name; browsers fetch it without cookies
_LONGEST = 100_000  # bytes of a posted form
_HEADERS = (
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
)


def is_local(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone.

    >>> [is_local(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "box")]
    [True, True, True, False, False]
    """
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


@dataclass(frozen=True)
class Lock:
    """Secret and names of a page: what opens it, and under which names it is there.

    Arguments:
        host: Address that the page listens on.
        port: Its port.
        token: Secret that a first visit carries in its address; later ones carry a cookie.
    """

    host: str
    port: int
    token: str

    @property
    def cookie(self) -> str:
        """Name of the cookie; browsers don't separate cookies by port."""
        return f"fkdiff-{self.port}"

    @property
    def address(self) -> str:
        """Address of a first visit."""
        unset = _address(self.host) in (ip_address("0.0.0.0"), ip_address("::"))
        name = "127.0.0.1" if unset else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}/?token={self.token}"

    def knows(self, authority: str) -> bool:
        """Whether `name:port` is this page, so that a foreign name that leads here is refused.

        >>> lock = Lock("127.0.0.1", 7860, "secret")
        >>> [lock.knows(a) for a in ("localhost:7860", "evil.example:7860", "localhost:80")]
        [True, False, False]
        """
        name, _, port = authority.lower().rpartition(":")
        if self.port == 80 and port != "80":
            name, port = authority.lower(), "80"
        bare = name.removeprefix("[").removesuffix("]")
        names = {"localhost", "127.0.0.1", "::1", self.host.lower()}
        if not is_local(self.host):
            names.add(socket.gethostname().lower())
        unset = _address(self.host) in (ip_address("0.0.0.0"), ip_address("::"))
        # A number can't be made to lead elsewhere, as a name can.
        return port == str(self.port) and (bare in names or (unset and _address(bare) is not None))

    def opens(self, offered: Iterable[str]) -> bool:
        """Whether one of the offered secrets is the token, compared in constant time."""
        known = self.token.encode()
        return any([secrets.compare_digest(text.encode(), known) for text in offered])


class Guard:
    """Refuses every request but those of the page's own browser window, before gradio sees them.

    Arguments:
        app: What is guarded.
        lock: Secret and names of the page.
    """

    def __init__(self, app: ASGIApp, lock: Lock) -> None:
        self.app, self.lock = app, lock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
        else:
            request = Request(scope, receive)
            refusal = _foreign(request, self.lock) or _closed(request)
            if refusal is None and request.method == "POST":
                refusal, receive = await _form(request)
            answer = self.app if refusal is None else _refused(*refusal)
            await answer(scope, receive, _dressed(send, request, self.lock))


def _foreign(request: Request, lock: Lock) -> tuple[int, str] | None:
    """Why a request isn't the page's own, or None."""
    hosts, origins = (request.headers.getlist(name) for name in ("host", "origin"))
    if len(hosts) != 1 or not lock.knows(hosts[0]):
        return 403, f"Host must be the address that fkdiff app printed, got {hosts!r}"
    for origin in origins:
        scheme, _, authority = origin.partition("://")
        if scheme != "http" or not lock.knows(authority):
            return 403, f"Origin must be this page, got {origin!r}"
    if request.scope["path"] == _MANIFEST:
        return None
    offered = [*request.query_params.getlist("token"), request.cookies.get(lock.cookie, "")]
    if not lock.opens(offered):
        return 403, "Token must be given: open the address that fkdiff app printed, whole"
    return None


def _closed(request: Request) -> tuple[int, str] | None:
    """Why nothing is at a request's path, or None: the page needs few of gradio's routes."""
    path, route = request.scope["path"], _OPEN.get(request.method)
    if route is None or not route.fullmatch(path) or ".." in path:
        return 403, f"{request.method} {path} is closed: the page takes no files and gives none"
    return None


async def _form(request: Request) -> tuple[tuple[int, str] | None, Receive]:
    """Why a posted form is refused, or None; and the form again, for who reads it next."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return (411, "Content-Length must be given"), request.receive
    if int(length) > _LONGEST:
        return (413, f"Content-Length must be at most {_LONGEST}, got {length}"), request.receive
    body = await request.body()
    message: Message = {"type": "http.request", "body": body, "more_body": False}
    waiting = [message]

    async def again() -> Message:
        return waiting.pop() if waiting else await request.receive()

    return (None if _is_flat(body) else (403, "Values must be texts and numbers")), again


def _is_flat(body: bytes) -> bool:
    """Whether a form's values are plain; gradio reads a file or address where it finds a dict."""
    try:
        form: Any = json_of(body)
    except ValueError:
        return False
    if not isinstance(form, dict) or not isinstance(form.get("data"), list | None):
        return False
    return all(isinstance(value, str | int | float | None) for value in form.get("data") or ())


def _dressed(send: Send, request: Request, lock: Lock) -> Send:
    """Answers with the page's headers; the first with the cookie that opens the later ones."""

    async def dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), *_HEADERS]
            if lock.opens(request.query_params.getlist("token")) and message["status"] < 400:
                cookie = f"{lock.cookie}={lock.token}; Path=/; HttpOnly; SameSite=Strict"
                headers.append((b"set-cookie", cookie.encode()))
            message = {**message, "headers": headers}
        await send(message)

    return dressed


def _refused(status: int, words: str) -> PlainTextResponse:
    return PlainTextResponse(f"{HTTPStatus(status).phrase}. {words}.\n", status)


def _address(host: str) -> Any:
    try:
        return ip_address(host)
    except ValueError:
        return None
