"""HTTP requests outside the measurement: health, model names, prompt lengths."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any, Final

import msgspec

from shardwise.bench.target import Target, tls_context
from shardwise.errors import InputError

REDIRECTS: Final = (301, 302, 303, 307, 308)
#: A SETTINGS frame after its three length bytes: type 4, no flags, stream 0 (RFC 9113, 6.5).
_SETTINGS: Final = b"\x04\x00\x00\x00\x00\x00"
HTTP2_ONLY: Final = "the server speaks HTTP/2 only, and this client speaks HTTP/1.1"
#: `/v1/models` entry's owned_by -> engine: vLLM's, SGLang's and TensorRT-LLM's OpenAI protocol
_OWNERS: Final = {
    "vllm": "vllm",
    "sglang": "sglang",
    "tensorrt_llm": "trtllm",
    "shardwise": "builtin",
}


class Answer(msgspec.Struct, frozen=True):
    """HTTP answer: status, body, and redirect target."""

    status: int  #: 0: no answer
    body: bytes
    location: str = ""  #: of a redirect

    def json(self) -> Any:
        """Return the parsed JSON body; None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class _Response(http.client.HTTPResponse):
    """Connection that skips every interim answer; the library skips only 100."""

    def begin(self) -> None:
        super().begin()
        while 100 < self.status < 200 and self.status != http.client.SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment]
            super().begin()


def ask(target: Target, path: str, body: Any = None, timeout_s: float = 60.0) -> Answer:
    """GET `path`, or POST `body` to it as JSON. The status is 0 if no server answers.

    Raises InputError if TLS fails, with what to do about it.
    """
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
    connection.response_class = _Response
    try:
        data = None if body is None else json.dumps(body)
        connection.request("GET" if data is None else "POST", target.uri(path), data, headers)
        response = connection.getresponse()
        location = response.getheader("Location") or ""
        return Answer(response.status, response.read(), location)
    except ssl.SSLError as error:
        raise _tls_error(target, error) from None
    except http.client.BadStatusLine as error:
        first = str(error.args[0]).encode("latin-1", errors="replace")
        return Answer(0, HTTP2_ONLY.encode() if is_http2(first) else str(error).encode())
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, str(error).encode())
    finally:
        connection.close()


def is_http2(data: bytes) -> bool:
    """Return whether the first bytes of a connection are the preface of an HTTP/2 server."""
    return data[3:9] == _SETTINGS


def _tls_error(target: Target, error: ssl.SSLError) -> InputError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return InputError(
            f"the certificate of {target.url} is not trusted: {error.verify_message}",
            remedy="pass its CA's certificate: --ca-file FILE (PEM)",
        )
    reason = error.reason or str(error)
    if reason == "TLSV1_ALERT_NO_APPLICATION_PROTOCOL":
        return InputError(f"{target.url}: {HTTP2_ONLY}")
    return InputError(f"TLS with {target.url} fails: {reason}", remedy="is it an http:// server?")


def refuse_redirect(target: Target, path: str, answer: Answer) -> None:
    """Raise InputError if `answer` is a redirect; redirects are not followed."""
    if answer.status in REDIRECTS:
        raise InputError(
            f"{target.url}{path} redirects ({answer.status}) to {answer.location or 'nowhere'}",
            remedy="measure the URL it redirects to",
        )


def require_answer(target: Target) -> None:
    """Raise InputError if no server answers."""
    answer = ask(target, "/health", timeout_s=10.0)
    if not answer.status:
        why = answer.body.decode(errors="replace") or "no answer"
        if why == HTTP2_ONLY:
            raise InputError(f"{target.url}: {HTTP2_ONLY}", remedy="put a proxy before it")
        raise InputError(
            f"nobody answers at {target.url}: {why[:120]}",
            remedy="check that a server listens there",
        )


def served_model(target: Target) -> str:
    """Return the name of the model that `target` serves. Raises InputError unless there is exactly
    one."""
    answer = ask(target, "/v1/models")
    refuse_redirect(target, "/v1/models", answer)
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


def served_engine(target: Target) -> str:
    """Return the engine in the model's `owned_by` field; "unknown" if missing."""
    listed = ask(target, "/v1/models").json()
    try:
        owners = {str(entry["owned_by"]) for entry in listed["data"]}
    except (TypeError, KeyError):
        return "unknown"
    return _OWNERS.get(owners.pop(), "unknown") if len(owners) == 1 else "unknown"
