"""Shardwise: choose, prove and deploy parallel layouts for LLM inference.

`import shardwise` loads only this file; other modules are imported when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardwise.api.accuracy import Validation, validate
    from shardwise.api.calibration import Calibration, FittedProfile, calibrate, fit_profile
    from shardwise.api.catalogue import load_gpu, load_model
    from shardwise.api.comparing import RunComparison, compare
    from shardwise.api.day import DayResult, simulate_day
    from shardwise.api.diagnosing import NodeDiagnosis, diagnose
    from shardwise.api.kinds import KindsResult, compare_kinds
    from shardwise.api.layouts import LayoutStudy, study_layouts
    from shardwise.api.measuring import MeasuredStudy, measure_study
    from shardwise.api.percentiles import PercentilePlan, plan_percentiles
    from shardwise.api.planning import PlanResult, plan
    from shardwise.api.predicting import PredictedRows, Predictions, predict, predict_rows
    from shardwise.api.result import Result
    from shardwise.api.searching import SearchResult, search
    from shardwise.api.simulation import Simulation, simulate
    from shardwise.api.studying import StudyResult, study
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
    "Layout",
    "LayoutStudy",
    "MeasuredStudy",
    "NodeDiagnosis",
    "NothingMeetsError",
    "PercentilePlan",
    "PlanResult",
    "PredictedRows",
    "Predictions",
    "Result",
    "RunComparison",
    "SearchResult",
    "ShardwiseError",
    "Simulation",
    "Slo",
    "Source",
    "Stage",
    "StudyResult",
    "Table",
    "UnknownNameError",
    "Validation",
    "Workload",
    "calibrate",
    "compare",
    "compare_kinds",
    "diagnose",
    "fit_profile",
    "load_gpu",
    "load_model",
    "measure_study",
    "plan",
    "plan_percentiles",
    "predict",
    "predict_rows",
    "search",
    "simulate",
    "simulate_day",
    "study",
    "study_layouts",
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
