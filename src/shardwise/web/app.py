"""The explorer's server: GET requests from this machine only; reads only listed files."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shardwise.errors import printable
from shardwise.hosting.deployment_file import dump
from shardwise.hosting.planned import planned
from shardwise.reports.files import evidence_csv
from shardwise.web import state as fields
from shardwise.web.asking import Explorer, compared, found_of, study_of
from shardwise.web.details import details
from shardwise.web.payload import chosen_of, deploy_problem, payload, sides_of
from shardwise.web.state import State, StateError, parse_state, written

MAX_QUERY: Final = 20_000  #: characters
HOSTS: Final = ["127.0.0.1", "localhost"]
#: No inline script or style, no external resources, no framing.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATIC: Final = {
    "explorer.css": "text/css",
    "explorer.js": "text/javascript",
    "fields.js": "text/javascript",
    "draw.js": "text/javascript",
    "chart.js": "text/javascript",
}
#: Routes that predict; only the explorer's own page or a direct request may use them.
COSTLY: Final = ("/api/", "/download/")
FROM_HERE: Final = (b"same-origin", b"none")
Handler = Callable[[Request], Awaitable[Response]]


def prepare(known: Explorer) -> None:
    """Compute the first page's answer, so that one-time costs are paid before it is requested.

    What it has loaded stays, so that the garbage collector need not look at it in the middle of a
    move, which took 20 to 40 ms of one in twenty; and a move's own objects are few enough to be
    looked at once in several moves.
    """
    payload(known, State())
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def app(known: Explorer) -> Starlette:
    """Return the ASGI application of an explorer."""

    async def page(_: Request) -> Response:
        return Response(_static("index.html"), media_type="text/html")

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return PlainTextResponse("no such file", 404)
        return Response(_static(name), media_type=STATIC[name])

    async def choices(_: Request) -> Response:
        return _json(_choices(known))

    async def study(request: Request) -> Response:
        return _json(payload(known, _state(known, request)))

    async def more(request: Request) -> Response:
        return _json(details(known, _state(known, request)))

    routes: dict[str, Handler] = {
        "/": page,
        "/static/{name}": static,
        "/api/choices": choices,
        "/api/study": study,
        "/api/details": more,
        **_downloads(known),
    }
    return Starlette(
        routes=[Route(path, handler, methods=["GET"]) for path, handler in routes.items()],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
            Middleware(_OwnPagesOnly),
        ],
        exception_handlers={StateError: _bad_fields},
    )


def _downloads(known: Explorer) -> dict[str, Handler]:
    async def csv(request: Request) -> Response:
        output = study_of(known, _state(known, request))
        return _file(
            evidence_csv((*output.study.evidence, *output.measured)), "study.csv", "text/csv"
        )

    async def report(request: Request) -> Response:
        from shardwise.reports.html.page import report_html

        state = _state(known, request)
        output = study_of(known, state)
        if compared(state):
            sides = sides_of(known, found_of(known, state))
            output = replace(output, compared=sides)
        page = await run_in_threadpool(report_html, output)
        return _file(page, "report.html", "text/html")

    async def deployment(request: Request) -> Response:
        state = _state(known, request)
        return _file(_deployment(known, state), "deployment.toml", "application/toml")

    return {
        "/download/study.csv": csv,
        "/download/report.html": report,
        "/download/deployment.toml": deployment,
    }


def _deployment(known: Explorer, state: State) -> bytes:
    """Return the online answer as a file for `shardwise up`."""
    found = found_of(known, state)
    problem, shown = deploy_problem(found), found.answer.shown
    if problem or shown is None:
        field = "tpot" if not found.answer.found else "engine"
        raise StateError({field: problem})
    return dump(planned([chosen_of(found, shown)], state.gpus)).encode()


def _state(known: Explorer, request: Request) -> State:
    if len(request.url.query) > MAX_QUERY:
        raise StateError({"model": f"the address is longer than {MAX_QUERY:,} characters"})
    return parse_state(request.query_params, known.start)


async def _bad_fields(_: Request, error: Exception) -> Response:
    assert isinstance(error, StateError)
    return _json({"problems": error.problems}, 422)


def _choices(known: Explorer) -> dict[str, Any]:
    """Return the allowed values of each field, and the studies of the store as states."""
    return {
        "defaults": written(known.start),
        "model": list(known.models),
        "gpu": [
            {"id": g.id, "name": g.name, "gpus": g.node_gpus, "memory": g.memory_nameplate_gb}
            for g in sorted(known.catalogue.gpus(), key=lambda g: (g.vendor, g.memory_bytes))
        ],
        "engine": fields.ENGINES,
        "dtype": fields.DTYPES,
        "kv_dtype": fields.KV_DTYPES,
        "study": [
            {
                "name": name,
                "label": printable(name, 80),
                "kind": evidence[0].source.kind,
                "state": {
                    "model": evidence[0].deployment.model,
                    "gpu": evidence[0].deployment.gpu,
                    "engine": evidence[0].deployment.engine,
                    "dtype": evidence[0].deployment.dtypes.weight,
                    "kv_dtype": evidence[0].deployment.dtypes.kv,
                    "mode": evidence[0].workload.mode,
                    "isl": round(evidence[0].workload.isl),
                    "osl": round(evidence[0].workload.osl),
                },
            }
            for name, evidence in known.store.listed().items()
        ],
    }


@cache
def _static(name: str) -> bytes:
    return files("shardwise.web").joinpath("static", name).read_bytes()


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _file(content: str | bytes, name: str, media_type: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=media_type, headers=headers)


class _OwnPagesOnly:
    """Refuses expensive routes for requests that another site's page caused. Browsers send
    Sec-Fetch-Site; other clients do not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        costly = scope["type"] == "http" and scope["path"].startswith(COSTLY)
        given = dict(scope["headers"]).get(b"sec-fetch-site", b"none") if costly else b"none"
        if given in FROM_HERE:
            await self.app(scope, receive, send)
        else:
            refusal = PlainTextResponse("requests from another site's page are refused", 403)
            await refusal(scope, receive, send)


class _Headers:
    """Adds HEADERS to every response, including refusals; headers set by a response are kept."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in own
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)
