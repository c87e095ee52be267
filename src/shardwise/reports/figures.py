"""The figures of a study; each function returns a chart for `save`. Altair loads on first use."""

from shardwise.reports.figure_accuracy import predicted_measured
from shardwise.reports.figure_cost import token_cost
from shardwise.reports.figure_errors import cell_errors
from shardwise.reports.figure_parts import memory_per_gpu, time_breakdown
from shardwise.reports.figure_steps import tp_changes, tp_steps
from shardwise.reports.figure_style import render, save

__all__ = [
    "cell_errors",
    "memory_per_gpu",
    "predicted_measured",
    "render",
    "save",
    "time_breakdown",
    "token_cost",
    "tp_changes",
    "tp_steps",
]
