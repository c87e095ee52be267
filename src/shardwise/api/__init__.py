"""The Python API. Import its names from `shardwise`. The commands use the same functions."""
