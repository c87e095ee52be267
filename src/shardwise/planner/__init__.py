"""Enumerate deployments, reject with a reason, rank the rest."""
