"""Readers of what people paste: matrices, tools' tables, environments and start-up logs."""
