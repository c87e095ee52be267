"""Questions about bundled models on catalogue GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from shardwise.architecture.models import load
from shardwise.hardware.catalogue import default_catalogue
from shardwise.hardware.node import Node
from shardwise.perfmodel.profiles import bundled_profile
from shardwise.planner.question import Demand, Question


def make_question(
    model: str = "llama-3.1-70b",
    gpu: str = "mi300x",
    gpus: int = 8,
    demand: Demand | None = None,
    **others: Any,
) -> Question:
    catalogue = default_catalogue()
    return Question(
        load(model),
        Node(catalogue.gpu(gpu), gpus),
        demand or Demand(1024, 256, 64),
        bundled_profile(),
        dict(catalogue.by_id),
        **others,
    )


@pytest.fixture
def ask() -> Any:
    return make_question
