"""Split an event stream into lines, which may end with LF, CRLF or CR.

Source: WHATWG HTML, section 9.2.5, "parsing an event stream".
"""

from __future__ import annotations

from typing import Final

_BOM: Final = b"\xef\xbb\xbf"
LONGEST: Final = 1 << 24  #: maximum bytes of a line; events of tokens are much shorter


class LineReader:
    """Collects bytes and returns complete lines without their line ends."""

    def __init__(self) -> None:
        self._rest = b""  #: of a line
        self._after_cr = False  #: a LF that comes next is part of the previous line end
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines completed by `data`. Raises ValueError for a line above LONGEST."""
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
        """Return the incomplete line at the end of the stream, if any."""
        rest, self._rest = self._rest, b""
        return rest

    def _with_lf(self, data: bytes) -> bytes:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
