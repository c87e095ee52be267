"""Diagnose a node from its links and logs: cost of TP, and what to change."""
