"""The figures of a study; each function returns a chart for `save`. Altair loads on first use."""

from shardwise.reports.figure_accuracy import predicted_measured
from shardwise.reports.figure_cost import relative_cost
from shardwise.reports.figure_frontier import throughput_latency
from shardwise.reports.figure_parts import memory_per_gpu, time_breakdown
from shardwise.reports.figure_steps import tp_changes, tp_steps
from shardwise.reports.figure_style import render, save

__all__ = [
    "memory_per_gpu",
    "predicted_measured",
    "relative_cost",
    "render",
    "save",
    "throughput_latency",
    "time_breakdown",
    "tp_changes",
    "tp_steps",
]
