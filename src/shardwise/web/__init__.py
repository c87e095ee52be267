"""The explorer: a local web page to vary TP, batch and GPU."""
