"""The Python API. Import its names from `shardwise`; commands build their answers here too."""
