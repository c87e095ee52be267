"""Shardwise: choose, prove and deploy parallel layouts for LLM inference.

`import shardwise` loads only this file; other modules are imported when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardwise.api.accuracy import Validation, validate
    from shardwise.api.benchmarking import bench_run
    from shardwise.api.calibration import Calibration, FittedProfile, calibrate, fit_profile
    from shardwise.api.catalogue import load_gpu, load_model
    from shardwise.api.comparing import RunComparison, compare
    from shardwise.api.day import DayResult, simulate_day
    from shardwise.api.diagnosing import NodeDiagnosis, diagnose
    from shardwise.api.explaining import LayerExplanation, explain
    from shardwise.api.hosting import DeploymentStatus, RunningDeployment, down, export, status, up
    from shardwise.api.kinds import KindsResult, compare_kinds
    from shardwise.api.layouts import LayoutStudy, study_layouts
    from shardwise.api.measurements import Measurements, load_bench
    from shardwise.api.measuring import MeasuredStudy, measure_study
    from shardwise.api.percentiles import PercentilePlan, plan_percentiles
    from shardwise.api.planning import PlanResult, plan
    from shardwise.api.predicting import PredictedRows, Predictions, predict, predict_rows
    from shardwise.api.profiling import StepProfile, StepProfiles, profile_steps
    from shardwise.api.result import Result
    from shardwise.api.searching import SearchResult, search
    from shardwise.api.serving import ServedModel, serve
    from shardwise.api.simulation import Simulation, simulate
    from shardwise.api.studying import StudyResult, study
    from shardwise.api.sweeping import bench_sweep
    from shardwise.errors import (
        DoesNotFitError,
        InputError,
        NothingMeetsError,
        ShardwiseError,
        UnknownNameError,
    )
    from shardwise.evidence.record import Evidence, Interval, Source
    from shardwise.layout.deployment import Deployment, Dtypes, EngineLimits, FixedLimits, Layout
    from shardwise.reports.table import Table
    from shardwise.simulator.fleet import Failure
    from shardwise.simulator.traffic import Stage
    from shardwise.workload.workload import Slo, Workload

__version__ = "0.1.0"

_HOMES = {
    "shardwise.api.benchmarking": ("bench_run",),
    "shardwise.api.explaining": (
        "LayerExplanation",
        "explain",
    ),
    "shardwise.api.hosting": (
        "DeploymentStatus",
        "RunningDeployment",
        "down",
        "export",
        "status",
        "up",
    ),
    "shardwise.api.measurements": (
        "Measurements",
        "load_bench",
    ),
    "shardwise.api.profiling": (
        "StepProfile",
        "StepProfiles",
        "profile_steps",
    ),
    "shardwise.api.serving": (
        "ServedModel",
        "serve",
    ),
    "shardwise.api.sweeping": ("bench_sweep",),
    "shardwise.api.accuracy": ("Validation", "validate"),
    "shardwise.api.calibration": ("Calibration", "FittedProfile", "calibrate", "fit_profile"),
    "shardwise.api.catalogue": ("load_gpu", "load_model"),
    "shardwise.api.comparing": ("RunComparison", "compare"),
    "shardwise.api.day": ("DayResult", "simulate_day"),
    "shardwise.api.layouts": ("LayoutStudy", "study_layouts"),
    "shardwise.api.measuring": ("MeasuredStudy", "measure_study"),
    "shardwise.api.searching": ("SearchResult", "search"),
    "shardwise.api.diagnosing": ("NodeDiagnosis", "diagnose"),
    "shardwise.api.kinds": ("KindsResult", "compare_kinds"),
    "shardwise.api.percentiles": ("PercentilePlan", "plan_percentiles"),
    "shardwise.api.planning": ("PlanResult", "plan"),
    "shardwise.api.predicting": ("PredictedRows", "Predictions", "predict", "predict_rows"),
    "shardwise.api.result": ("Result",),
    "shardwise.api.simulation": ("Simulation", "simulate"),
    "shardwise.api.studying": ("StudyResult", "study"),
    "shardwise.errors": (
        "DoesNotFitError",
        "InputError",
        "NothingMeetsError",
        "ShardwiseError",
        "UnknownNameError",
    ),
    "shardwise.evidence.record": ("Evidence", "Interval", "Source"),
    "shardwise.layout.deployment": (
        "Deployment",
        "Dtypes",
        "EngineLimits",
        "FixedLimits",
        "Layout",
    ),
    "shardwise.reports.table": ("Table",),
    "shardwise.simulator.fleet": ("Failure",),
    "shardwise.simulator.traffic": ("Stage",),
    "shardwise.workload.workload": ("Slo", "Workload"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Calibration",
    "DayResult",
    "Deployment",
    "DeploymentStatus",
    "DoesNotFitError",
    "Dtypes",
    "EngineLimits",
    "Evidence",
    "Failure",
    "FittedProfile",
    "FixedLimits",
    "InputError",
    "Interval",
    "KindsResult",
    "LayerExplanation",
    "Layout",
    "LayoutStudy",
    "MeasuredStudy",
    "Measurements",
    "NodeDiagnosis",
    "NothingMeetsError",
    "PercentilePlan",
    "PlanResult",
    "PredictedRows",
    "Predictions",
    "Result",
    "RunComparison",
    "RunningDeployment",
    "SearchResult",
    "ServedModel",
    "ShardwiseError",
    "Simulation",
    "Slo",
    "Source",
    "Stage",
    "StepProfile",
    "StepProfiles",
    "StudyResult",
    "Table",
    "UnknownNameError",
    "Validation",
    "Workload",
    "bench_run",
    "bench_sweep",
    "calibrate",
    "compare",
    "compare_kinds",
    "diagnose",
    "down",
    "explain",
    "export",
    "fit_profile",
    "load_bench",
    "load_gpu",
    "load_model",
    "measure_study",
    "plan",
    "plan_percentiles",
    "predict",
    "predict_rows",
    "profile_steps",
    "search",
    "serve",
    "simulate",
    "simulate_day",
    "status",
    "study",
    "study_layouts",
    "up",
    "validate",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
