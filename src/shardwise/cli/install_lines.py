"""The command line that installs a library which a command failed to import."""

from __future__ import annotations

from typing import Final

#: extra that installs a library, if it does not follow from the command
EXTRAS: Final = {
    "scipy": "calibrate",
    "huggingface_hub": "hub",
    "torch": "engine",
    "safetensors": "engine",
    "gguf": "engine",
    "starlette": "web",
    "uvicorn": "web",
    "uvloop": "bench",
    "httptools": "bench",
    "orjson": "bench",
    "tokenizers": "bench",
    "psutil": "host",
    "yaml": "host",
    "prometheus_client": "host",
    "numba": "traffic",
    "pyarrow": "parquet",
    "ray": "ray",
}
#: command -> the extra that installs all its libraries
EXTRA_OF_COMMAND: Final = {
    "bench": "bench",
    "study": "measure",
    "serve": "engine",
    "web": "web",
    **dict.fromkeys(("up", "status", "logs", "down", "export"), "host"),
}


def install_line(module: str, command: str) -> str:
    """Return the command line that installs `module` for `command`; "" if no extra has it."""
    name = module.partition(".")[0]
    if name not in EXTRAS:
        return ""
    extra = EXTRAS[name]
    if extra in ("bench", "host", "engine", "web"):
        extra = EXTRA_OF_COMMAND.get(command, extra)
    return f"pip install 'shardwise[{extra}]'"
