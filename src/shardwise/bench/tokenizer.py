"""A model's tokenizer, to count tokens without requests to the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from shardwise.errors import InputError
from shardwise.files import read_limited


class Tokenizer(msgspec.Struct, frozen=True):
    """Counts the tokens of a text, without tokens that a server adds, and lists its vocabulary."""

    name: str
    count: Callable[[str], int]
    decode: Callable[[list[int]], str]
    size: int  #: words of the vocabulary


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer.json at `path`, or in the folder `path`. Raises InputError."""
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            "a tokenizer needs the package tokenizers", remedy="run: pip install tokenizers"
        ) from None
    file = path / "tokenizer.json" if path.is_dir() else path
    allowed = "allowed: a tokenizer.json or its folder"
    try:
        loaded = tokenizers.Tokenizer.from_str(read_limited(file).decode())
    except OSError as error:
        raise InputError(f"cannot read the tokenizer {file}: {error.strerror}", allowed) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not a tokenizer: {error}", allowed) from None
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises no narrower class
        raise InputError(f"{file} is not a tokenizer: {error}", allowed) from None
    return Tokenizer(
        name=file.name if path.is_file() else path.name,
        count=lambda text: len(loaded.encode(text, add_special_tokens=False).ids),
        decode=lambda ids: str(loaded.decode(ids)),
        size=int(loaded.get_vocab_size()),
    )
