"""Readers of what people paste: topology matrices, tools' tables, environments and start-up logs."""
