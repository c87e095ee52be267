"""MkDocs hook: fences as MkDocs reads them, pages from elsewhere, and links that leave the site.

Pages keep the relative links that work in a checkout. A link to a file outside docs/ becomes one to
the repository; a file or folder that is not there fails the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
#: a fence with a word after its language: "run" (tests run it) or the name of a file
FENCE: Final = re.compile(r"^```(\w+) ([\w.-]+)$", re.MULTILINE)
LINK: Final = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
#: page -> file of the repository that it shows
SHOWN: Final = {"contributing.md": "CONTRIBUTING.md"}


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page's text with its links as the site has them."""
    del files
    source = page.file.src_uri
    folder = posixpath.dirname(posixpath.join("docs", source))
    if source in SHOWN:
        markdown, folder = (ROOT / SHOWN[source]).read_text("utf-8"), ""

    def moved(found: re.Match[str]) -> str:
        target, anchor = found.group(1), found.group(2) or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith("docs/"):
            inside = posixpath.relpath(path, posixpath.join("docs", posixpath.dirname(source)))
            return inside + anchor
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{source}: link to {target}")
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{config['repo_url']}/{kind}/main/{path}{anchor}"

    return LINK.sub(moved, FENCE.sub(_titled, markdown))


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """The page as HTML: mkdocs-click 0.9 prints the marker that Click has for "no default"."""
    del page, config, files
    return html.replace("<code>Sentinel.UNSET</code>", "").replace(
        "<td><code></code></td>", "<td></td>"
    )


def _titled(found: re.Match[str]) -> str:
    language, word = found.groups()
    return f'```{language} title="{word}"' if "." in word else f"```{language}"
