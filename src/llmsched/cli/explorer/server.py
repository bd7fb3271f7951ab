"""The page's server: Starlette and uvicorn on loopback, for whoever knows the token in the address and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import itertools
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..._logging import logger
from ...errors import InputError, LlmschedError, MissingExtraError
from .picture import Progress

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_log = logger(__name__)

#: An answer to what the page asks: its values -> plain values for JSON.
Answer = Callable[[Any, Progress], Any]

HOST = "127.0.0.1"
#: The question that is given up when another comes: it takes long, and a slider does not wait.
SLOW = "load"
#: The question that is answered beside another.
ASIDE = "gap"
_LARGEST_QUESTION = 100_000  # bytes; a setting has a few hundred
#: The page loads from its own address alone. Vega compiles its expressions: 'unsafe-eval'.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "X-Content-Type-Options": "nosniff",
}


class Stopped(Exception):
    """Nobody waits for this answer any more: the server ends, or the dials have moved on."""


def require() -> None:
    """Raises MissingExtraError unless the extra is installed."""
    packages = {"starlette": "starlette", "uvicorn": "uvicorn", "vl_convert": "vl-convert-python"}
    for module, package in packages.items():
        try:
            __import__(module)
        except ImportError:
            raise MissingExtraError(package, "explore", "the explorer") from None


def listen(port: int) -> socket.socket:
    """A socket on loopback; port 0 takes a free one. Raises InputError if the port is taken."""
    # asyncio switches Nagle's algorithm off where the protocol is named: with it every answer takes 40 ms longer.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(16)  # before the address is told: a browser may come at once
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--port {port}: {why}; leave it out for a free one") from None
    return listening


class Guard:
    """Lets through what comes from the page itself; all else gets 403, whatever it asks for.

    Checked of every request: the token, which begins the path; the host, which is another's name where a foreign page
    has its name resolve to this computer (DNS rebinding); the origin, where the browser says one. There are no
    WebSockets, so that those are refused too.
    """

    def __init__(self, app: Any, *, token: str, port: int) -> None:
        self.app, self.token = app, token.encode()
        self.hosts = {f"{HOST}:{port}".encode(), f"localhost:{port}".encode()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self.knows(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            from starlette.responses import PlainTextResponse

            _log.warning("explorer: a request without the page's token, host or origin was refused")
            refusal = PlainTextResponse("not for you: open the address that llmsched explore printed\n", 403)
            await refusal(scope, receive, send)

    def knows(self, scope: Any) -> bool:
        """Whether a request has the token, our host, and no other origin than ours."""
        parts = scope["path"].encode("utf-8", "surrogateescape").split(b"/")
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        return (
            len(parts) > 2
            and secrets.compare_digest(parts[1], self.token)
            and len(hosts) == 1
            and hosts[0] in self.hosts
            and all(origin == b"http://" + hosts[0] for origin in origins)
        )


def application(
    data: Mapping[str, Any], answers: Mapping[str, Answer], token: str, port: int, stopped: threading.Event
) -> Starlette:
    """The page with its `data`, and what it may ask: name -> answer."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from ...study.report import vega_script

    one_at_a_time = asyncio.Lock()
    questions = itertools.count(1)
    newest = 0

    def file(name: str, kind: str, made: Callable[[], str]) -> Route:
        def get(request: Request) -> Response:
            return Response(made(), media_type=kind, headers=_HEADERS)

        return Route(f"/{token}/{name}", get)

    def asked(name: str, answer: Answer) -> Route:
        async def post(request: Request) -> Response:
            nonlocal newest
            own = newest = next(questions)

            def progress(*_: Any) -> None:
                if stopped.is_set() or (newest > own and name == SLOW):
                    raise Stopped

            try:
                body = await _body(request)
                async with contextlib.nullcontext() if name == ASIDE else one_at_a_time:
                    begun = time.perf_counter()
                    values = await asyncio.to_thread(answer, body, progress)
                    took = {"took": 1000 * (time.perf_counter() - begun)}
                    _log.info("explorer: %s answered in %.0f ms", name, took["took"])
            except LlmschedError as error:
                _log.info("explorer: %s refused (%s)", name, error)
                return JSONResponse({"error": str(error)}, 400, headers=_HEADERS)
            except OSError as error:
                return JSONResponse({"error": f"{error.filename}: {error.strerror}"}, 400, headers=_HEADERS)
            except Stopped:
                _log.info("explorer: %s given up, as another question came", name)
                return JSONResponse({"error": "no longer asked for"}, 503, headers=_HEADERS)
            return JSONResponse(values | took, headers=_HEADERS)

        return Route(f"/{token}/{name}", post, methods=["POST"])

    def page() -> str:
        embedded = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        return _part("explorer.html").replace("{{data}}", embedded)

    routes = [
        file("", "text/html", page),
        file("explorer.css", "text/css", lambda: _part("explorer.css")),
        file("explorer.js", "text/javascript", lambda: _part("explorer.js")),
        file("vega.js", "text/javascript", lambda: vega_script("explore", "the explorer")),
        *(asked(name, answer) for name, answer in answers.items()),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token, port=port)])


async def _body(request: Request) -> Any:
    size = 0
    parts = []
    async for part in request.stream():
        size += len(part)
        if size > _LARGEST_QUESTION:
            raise InputError("that is no setting: it is too long")
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        raise InputError("that is no JSON") from None


def _part(name: str) -> str:
    return (importlib.resources.files(__package__) / "page" / name).read_text(encoding="utf-8")


def serve(
    data: Mapping[str, Any], answers: Mapping[str, Answer], listening: socket.socket, told: Callable[[str], None]
) -> None:
    """Serve the page until Ctrl-C, or SIGTERM; `told` is called with its address once that can be opened."""
    import uvicorn

    token, port, stopped = secrets.token_urlsafe(24), listening.getsockname()[1], threading.Event()
    app = application(data, answers, token, port, stopped)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            stopped.set()  # a simulation in progress ends at its next report
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app, ws="none", lifespan="off", log_level="error", access_log=False, server_header=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    _log.info("explorer: listening on port %d of this computer", port)  # the token is a secret
    told(f"http://{HOST}:{port}/{token}/")
    Server(config).run(sockets=[listening])
