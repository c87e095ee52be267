"""The measured OpenAI-compatible endpoint, and the bytes of a request to it."""

from __future__ import annotations

import json
import ssl
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from shardwise.errors import InputError

Api = Literal["completions", "chat"]


class Target(msgspec.Struct, frozen=True):
    """An endpoint: its address, which of the two APIs is used, and the model's name."""

    host: str
    port: int
    path: str = ""  #: before /v1, without a trailing slash
    tls: bool = False
    api: Api = "completions"
    model: str = ""
    api_key: str = ""
    ca_file: str = ""  #: PEM file of trusted certificates; "": the system's
    query: str = ""  #: of the URL, sent with every request; hidden, since it may contain a key
    exact: bool = True  #: True: request exactly this many tokens; False: at most

    @property
    def address(self) -> str:
        """Host and port, with an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """URL of the endpoint."""
        return f"{'https' if self.tls else 'http'}://{self.address}{self.path}"

    def uri(self, path: str) -> str:
        """Return the request target for `path`."""
        return f"{self.path}{path}" + (f"?{self.query}" if self.query else "")

    def named(self, model: str) -> Target:
        """Return the same target with another model name."""
        return replace(self, model=model)

    def request(self, prompt: str | list[int], osl: int) -> bytes:
        """Return head and body of a greedy streaming request for `osl` tokens.

        `ignore_eos` is an extension of vLLM, SGLang and TensorRT-LLM. It is omitted if the target
        is not `exact`, because other servers may refuse it.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": osl,
            "temperature": 0,
            **({"ignore_eos": True} if self.exact else {}),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.api == "chat":
            body["messages"] = [{"role": "user", "content": prompt}]
            return self._post("/v1/chat/completions", body)
        return self._post("/v1/completions", body | {"prompt": prompt})

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        data = json.dumps(body, separators=(",", ":")).encode()
        key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        head = (
            f"POST {self.uri(path)} HTTP/1.1\r\nHost: {self.address}\r\n"
            f"Content-Type: application/json\r\nAccept: text/event-stream\r\n"
            f"Accept-Encoding: identity\r\n{key}Content-Length: {len(data)}\r\n\r\n"
        )
        return head.encode("ascii") + data


def parse_target(
    url: str,
    api: Api = "completions",
    model: str = "",
    api_key: str = "",
    ca_file: str = "",
    *,
    exact: bool = True,
) -> Target:
    """Parse the target at `url`, with or without /v1. Raises InputError unless it is an HTTP
    URL."""
    if api not in get_args(Api):
        raise InputError(f"api is {api!r}", f"allowed: {', '.join(get_args(Api))}", field="api")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"URL {url!r}: {error}", "allowed: http://host:port") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"URL {url!r}", "allowed: http://host:port or https://host:port")
    if parts.username is not None:
        raise InputError(
            f"the URL of {parts.hostname} contains a user name",
            "allowed: http://host:port",
            "name a variable that holds the key: --api-key-env",
        )
    if not all(32 < ord(c) < 127 for c in api_key + parts.hostname + parts.path + parts.query):
        raise InputError(f"URL {url!r} or its key contains characters that HTTP does not allow")
    if not _is_host_name(parts.hostname):
        raise InputError(f"URL {url!r}", "allowed: a host name with parts of 1 to 63 characters")
    path = parts.path.rstrip("/").removesuffix("/v1")
    tls = parts.scheme == "https"
    port = (443 if tls else 80) if port is None else port
    if not port:
        raise InputError(f"URL {url!r}", "allowed: a port from 1 to 65535")
    return Target(parts.hostname, port, path, tls, api, model, api_key, ca_file, parts.query, exact)


def _is_host_name(name: str) -> bool:
    """Return whether a name is a valid DNS name."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def tls_context(target: Target) -> ssl.SSLContext | None:
    """Return the TLS context of `target`; None for plain HTTP. Raises InputError."""
    if not target.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=target.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"cannot use the certificates {target.ca_file}: {error}", "allowed: a PEM file"
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context
