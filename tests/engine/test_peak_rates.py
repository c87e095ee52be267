"""Work is timed several times, and slow work fewer times."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")

from shardwise.engine import peak_rates  # noqa: E402  # needs torch

CPU = torch.device("cpu")


@pytest.mark.parametrize(("enough_s", "runs"), [(60.0, 7), (0.0, peak_rates.LEAST_RUNS)])
def test_slow_work_is_repeated_less(
    monkeypatch: pytest.MonkeyPatch, enough_s: float, runs: int
) -> None:
    monkeypatch.setattr(peak_rates, "ENOUGH_S", enough_s)
    calls: list[None] = []
    times = peak_rates.seconds(lambda: calls.append(None), CPU, 7)
    assert len(times) == runs
    assert len(calls) == 1 + runs  # the first is a warm-up run


def test_a_few_runs_are_enough_if_fewer_are_asked_for() -> None:
    assert len(peak_rates.seconds(lambda: None, CPU, 2)) == 2
