"""Base class of results: tables, JSON, a data frame, charts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from shardwise.errors import InputError, UnknownNameError
from shardwise.reports.documents import as_json, document
from shardwise.reports.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from shardwise.reports.figure_style import Figure


class Result(ABC):
    """A result. A notebook displays it; elsewhere print `result.table()`."""

    kind: ClassVar[str]  #: the command that gives the same result

    @abstractmethod
    def tables(self) -> list[Table]:
        """Return every table of the result, the main one first."""

    @abstractmethod
    def _answer(self) -> dict[str, Any]:
        """Return the result as records, for JSON."""

    def summary(self) -> str:
        """Return the result as text; "" if the table is the result."""
        return ""

    def charts(self) -> dict[str, Figure]:
        """Return every chart of the result by name; empty if it has none."""
        return {}

    def table(self, name: str = "") -> Table:
        """Return one table: the main one, or the one called `name`.

        Raises:
            UnknownNameError: There is no table of that name.
        """
        found = {table.name: table for table in self.tables()}
        if name and name not in found:
            raise UnknownNameError("table", name, found)
        return found[name] if name else next(iter(found.values()))

    def chart(self, name: str = "") -> Figure:
        """Return one chart: the main one, or the one called `name`. A notebook draws it.

        Raises:
            UnknownNameError: There is no chart of that name, or none at all.
        """
        found = self.charts()
        if name not in found and (name or not found):
            raise UnknownNameError("chart", name, found)
        return found[name] if name else next(iter(found.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return the document of `to_json` as plain Python data."""
        import json

        found: dict[str, Any] = json.loads(self.to_json())
        return found

    def to_json(self, *, indent: int = 2) -> str:
        """Return the JSON document that the command prints with --json.

        Args:
            indent: Spaces per level; 0 writes one line.
        """
        return as_json(document(self.kind, self._answer()), indent=indent)

    def to_pandas(self, name: str = "") -> pd.DataFrame:
        """Return a table as a data frame with the columns of its CSV file, in SI units.

        Args:
            name: Name of the table, as in `table`.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise InputError(
                "to_pandas needs pandas", remedy="run: pip install 'shardwise[notebook]'"
            ) from None
        from shardwise.reports.files import table_values

        header, lines = table_values(self.table(name))
        return pd.DataFrame(lines, columns=header)

    def _repr_html_(self) -> str:
        from html import escape

        words = "".join(f"<p>{escape(line)}</p>" for line in self.summary().splitlines())
        return words + self.table()._repr_html_()

    def __str__(self) -> str:
        return "\n\n".join(part for part in (self.summary(), str(self.table())) if part)
