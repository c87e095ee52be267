"""Analyse a grid of evidence over TP and batch: transitions, break-even, cost, audit."""
