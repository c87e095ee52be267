"""Sweep TP x batch over any evidence source; transitions, break-even, cost, audit."""
