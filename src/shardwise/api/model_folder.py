"""Where a model is loaded from: a folder, a .gguf file, or a bundled name with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from shardwise.errors import UnknownNameError


@contextmanager
def model_folder(
    model: str, random_weights: bool, say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Path, bool]]:
    """Yield where to read `model` from, and whether its weights are random.

    A bundled name has only a config, so its weights are random; `say` is told so.

    Raises:
        UnknownNameError: `model` is neither a path nor a bundled name.
    """
    from shardwise.architecture.models import bundled

    path = Path(model).expanduser()
    if path.exists():
        yield path, random_weights
        return
    if model not in bundled():
        raise UnknownNameError("model", model, bundled(), "a folder or a .gguf file is allowed too")
    say(f"{model}: random weights, since only its shape is bundled")
    with TemporaryDirectory() as folder:
        yield bundled_folder(model, Path(folder)), True


def bundled_folder(model: str, where: Path) -> Path:
    """Write the config of a bundled model, without weights, to `where`/`model`; return that."""
    from shardwise.architecture.models import bundled_config

    made = where / model
    made.mkdir(parents=True, exist_ok=True)
    (made / "config.json").write_text(json.dumps(bundled_config(model), indent=1), "utf-8")
    return made.resolve()
