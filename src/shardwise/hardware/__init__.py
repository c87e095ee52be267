"""GPUs, links, nodes and prices from data files, each value with unit, source and date."""
