"""Faults and variations of servers and proxies that the server with known delays can simulate.

The client must not count a fault as a success. A variation is an unusual but complete answer, and
the client must count it as a success.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

Fault = Literal[
    "http_4xx",
    "http_5xx",
    "cut",
    "malformed",
    "error_event",
    "missing_finish",
    "missing_done",
    "short",
    "stall",
    "only_comments",
    "endless",
    "gzip",
    "redirect",
    "retry_after",
    "http2",
    "html",
    "usage_too_low",
]
Manner = Literal[
    "continue_100",
    "early_hints",
    "unknown_field",
    "crlf",
    "cr",
    "byte_order_mark",
    "comments",
    "event_ids",
    "no_space",
    "trailers",
    "usage_with_finish",
    "usage_in_each",
    "no_usage",
    "usage_too_high",
    "two_tokens_a_chunk",
    "buffered",
    "reasoning",
    "tool_call",
    "closes",
    "http10",
]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)
MANNERS: Final[tuple[Manner, ...]] = get_args(Manner)
QUERY: Final = "key=known"  #: query that `needs_query` requires


class Expected(msgspec.Struct, frozen=True):
    """A mode, and how the client must count its requests."""

    does: str
    failure: str = ""  #: kind of failure; "": a success
    remark: str = ""  #: field of TokenCheck that counts it


EXPECTED: Final[dict[str, Expected]] = {
    "http_4xx": Expected("answers 429", "http_4xx"),
    "http_5xx": Expected("answers 500", "http_5xx"),
    "cut": Expected("closes the connection half way through", "cut"),
    "malformed": Expected("sends half a JSON object as an event", "malformed"),
    "error_event": Expected("sends an error inside a stream of status 200", "error_event"),
    "missing_finish": Expected("sends no finish_reason", "missing_finish"),
    "missing_done": Expected("ends without [DONE]", "missing_done"),
    "short": Expected("sends one token fewer than requested", "short"),
    "stall": Expected("stops sending half way through and keeps the connection open", "stall"),
    "only_comments": Expected("sends keep-alive comments and nothing else", "stall"),
    "endless": Expected("sends events without tokens and never ends", "timeout"),
    "gzip": Expected("compresses the body although identity was requested", "malformed"),
    "redirect": Expected("answers 307 with a Location", "http_other"),
    "retry_after": Expected("answers 503 with Retry-After", "http_5xx"),
    "http2": Expected("speaks HTTP/2 only", "malformed"),
    "html": Expected("answers 200 with an HTML page", "malformed"),
    "usage_too_low": Expected("reports half the tokens in its usage", "short"),
    "continue_100": Expected("sends 100 Continue before the answer"),
    "early_hints": Expected("sends 103 Early Hints before the answer"),
    "unknown_field": Expected("sends fields that are not part of the event-stream format"),
    "crlf": Expected("ends lines with CRLF"),
    "cr": Expected("ends lines with CR only"),
    "byte_order_mark": Expected("begins the stream with a byte order mark"),
    "comments": Expected("sends a comment before every event"),
    "event_ids": Expected("gives every event an id, a name and a retry time"),
    "no_space": Expected("omits the space after `data:`"),
    "trailers": Expected("ends the chunked body with trailers"),
    "usage_with_finish": Expected("sends usage with the finish_reason instead of separately"),
    "usage_in_each": Expected("sends usage in every event"),
    "no_usage": Expected("sends no usage", remark="without_usage"),
    "usage_too_high": Expected("reports twice the tokens in its usage", remark="more_than_asked"),
    "two_tokens_a_chunk": Expected("sends two tokens in each event", remark="fewer_pieces"),
    "buffered": Expected("buffers everything until the end", remark="at_once"),
    "reasoning": Expected("sends reasoning before the answer (chat)"),
    "tool_call": Expected("calls a tool instead of answering (chat)"),
    "closes": Expected("sends no length and closes the connection at the end"),
    "http10": Expected("answers as HTTP/1.0"),
}

#: bytes sent before the answer
BEFORE: Final[dict[str, bytes]] = {
    "continue_100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "early_hints": b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
}
HEADERS: Final[dict[str, bytes]] = {
    "gzip": b"Content-Encoding: gzip\r\n",
    "trailers": b"Trailer: X-Checksum\r\n",
    "closes": b"Connection: close\r\n",
    "http10": b"Connection: close\r\n",
}
#: instead of 200 with an event stream: end of the status line, and further headers
REFUSALS: Final[dict[str, tuple[bytes, bytes]]] = {
    "http_4xx": (b"429 Too Many Requests", b""),
    "http_5xx": (b"500 Internal Server Error", b""),
    "redirect": (b"307 Temporary Redirect", b"Location: http://elsewhere.invalid/v1\r\n"),
    "retry_after": (b"503 Service Unavailable", b"Retry-After: 7\r\n"),
}
UNCHUNKED: Final = ("closes", "http10")
#: an empty SETTINGS frame, the answer of an HTTP/2 server to HTTP/1.1 (RFC 9113, 3.4)
HTTP2_PREFACE: Final = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
PAGE: Final = b"<!DOCTYPE html>\n<title>Sign in</title>\n"
TRAILER: Final = b"X-Checksum: 0\r\nContent-Encoding: gzip\r\n"


def dressed(mode: str, events: bytes) -> bytes:
    """Return `events`, each ended by an empty line, in the form of `mode`."""
    if mode == "crlf":
        return events.replace(b"\n", b"\r\n")
    if mode == "cr":
        return events.replace(b"\n", b"\r")
    if mode == "no_space":
        return events.replace(b"data: ", b"data:")
    before = {
        "unknown_field": b"foo: bar\nlonely\n",
        "comments": b": keep-alive\n\n",
        "event_ids": b"id: 1\nevent: token\nretry: 100\n",
    }.get(mode)
    return events if before is None else events.replace(b"data: ", before + b"data: ")
