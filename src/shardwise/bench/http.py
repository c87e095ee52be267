"""Short HTTP exchanges outside the measured part: health, model names, prompt lengths."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from shardwise.bench.target import Target, tls_context
from shardwise.errors import InputError


@dataclass(frozen=True)
class Answer:
    status: int  #: 0: nobody answered
    body: bytes

    def json(self) -> Any:
        """The body as JSON, None where it is not."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(target: Target, path: str, body: Any = None, timeout_s: float = 60.0) -> Answer:
    """GET `path`, or POST `body` to it as JSON. Nobody there is status 0, not an exception."""
    headers = {"Content-Type": "application/json"}
    if target.api_key:
        headers["Authorization"] = f"Bearer {target.api_key}"
    connection: http.client.HTTPConnection
    if target.tls:
        connection = http.client.HTTPSConnection(
            target.host, target.port, timeout=timeout_s, context=tls_context(target)
        )
    else:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)
    try:
        data = None if body is None else json.dumps(body)
        connection.request("GET" if data is None else "POST", target.path + path, data, headers)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, str(error).encode())
    finally:
        connection.close()


def require_answer(target: Target) -> None:
    """Raises InputError where nobody answers at all, whatever the answer might be."""
    answer = ask(target, "/health", timeout_s=10.0)
    if not answer.status:
        why = answer.body.decode(errors="replace") or "no answer"
        raise InputError(
            f"nobody answers at {target.url}: {why[:120]}",
            remedy="check that a server listens there",
        )


def served_model(target: Target) -> str:
    """The name of the one model `target` serves. Raises InputError if there is not exactly one."""
    answer = ask(target, "/v1/models")
    listed = answer.json()
    try:
        names = [str(entry["id"]) for entry in listed["data"]]
    except (TypeError, KeyError):
        raise InputError(
            f"{target.url}/v1/models gave {answer.status or 'no answer'}: "
            f"{answer.body[:120].decode(errors='replace')}",
            remedy="check that a server listens there",
        ) from None
    if len(names) != 1:
        raise InputError(
            f"{target.url} serves {len(names)} models", f"one of {', '.join(names)}", "name it"
        )
    return names[0]
