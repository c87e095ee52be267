"""The explorer: a page on this machine where TP, batch and GPU are played with."""
