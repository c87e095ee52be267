"""Parsers of pasted text: topology matrices, tools' tables, environments and start-up logs."""
