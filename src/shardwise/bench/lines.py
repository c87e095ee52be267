"""Lines of an event stream, which may end in LF, in CRLF or in CR alone.

WHATWG HTML, section 9.2.5: "parsing an event stream".
"""

from __future__ import annotations

from typing import Final

_BOM: Final = b"\xef\xbb\xbf"
LONGEST: Final = 1 << 24  #: bytes of a line that are kept; no event of a token comes near


class LineReader:
    """Takes bytes as they come; gives whole lines, without their ends."""

    def __init__(self) -> None:
        self._rest = b""  #: of a line
        self._after_cr = False  #: a LF that comes next belongs to the line end before it
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` ends. Raises ValueError for a line longer than LONGEST."""
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LONGEST:
            raise ValueError(f"a line longer than {LONGEST} bytes")
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def last(self) -> bytes:
        """What is left when the stream ends: a line that lacks its end, or nothing."""
        rest, self._rest = self._rest, b""
        return rest

    def _with_lf(self, data: bytes) -> bytes:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
