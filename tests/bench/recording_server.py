"""The server of known delays, which also writes every prompt: `recording_server.py PORT FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from shardwise.bench import known_connection
from shardwise.bench.known_answer import Answer, Behaviour
from shardwise.bench.known_server import main

FILE = Path(sys.argv[2])


class _Recorded(Answer):
    """An answer whose prompt is appended to the file if it is streamed, as measured ones are."""

    def __init__(self, behaviour: Behaviour, body: dict[str, Any], number: int) -> None:
        super().__init__(behaviour, body, number)
        if body.get("stream"):
            with FILE.open("a") as handle:
                handle.write(json.dumps(body["prompt"]) + "\n")


if __name__ == "__main__":
    known_connection.Answer = _Recorded  # type: ignore[attr-defined]
    main([sys.argv[1], "0.002", "0.001"])
