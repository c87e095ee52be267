"""A cell measures what the server of known delays does, and says what it could not."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from urllib.request import urlopen

import pytest
from msgspec.structs import replace

from shardwise.bench.cell import Arranged, Effort, Subject, arrange, measure, metrics_of
from shardwise.bench.prompts import choose_source
from shardwise.bench.selftest import known_server
from shardwise.bench.target import Target
from shardwise.evidence.measured import Measured
from shardwise.evidence.record import Source
from shardwise.layout.deployment import Deployment, Layout
from shardwise.workload.workload import Mode, Workload

OSL = 10


def subject(concurrency: int, mode: Mode = "closed_loop") -> Subject:
    return Subject(
        "test",
        "cell",
        Deployment(
            model="known",
            gpu="cpu",
            layout=Layout(tp_size=1),
            engine="builtin",
        ),
        Workload(8, OSL, concurrency, mode),
        Source("measured", "test"),
        {"seed": 0},
    )


def run(target: Target, concurrency: int, waves: int = 5, **effort: int | float) -> Measured:
    about = subject(concurrency)
    source = choose_source(target)

    def arrangement(repeat: int) -> Arranged:
        return arrange(source, about.workload, concurrency * waves, 0, repeat)

    return measure(target, about, arrangement, Effort(concurrency * waves, **effort))  # type: ignore[arg-type]


def test_a_cell_reads_the_delays_of_the_server() -> None:
    with known_server(0.05, 0.01) as target:
        found = run(target, 4, min_repeats=3, max_repeats=3)
    metrics = found.evidence.metrics
    # a busy machine delays any token, the first of an answer among them, so only that no delay is
    # missing from what is counted from the request, and that TPOT is what lies between
    assert 0.05 <= metrics["ttft_s"].value < 0.2
    assert 0.05 + 9 * 0.01 <= metrics["e2e_latency_s"].value < 0.5
    between_s = metrics["e2e_latency_s"].value - metrics["ttft_s"].value
    assert metrics["tpot_s"].value == pytest.approx(between_s / 9, rel=0.01)
    # 0.14 s a request or more, 4 in flight: at most 4 x 10 / 0.14 = 286 tok/s
    assert 80 < metrics["output_tok_s"].value < 286 * 1.1
    assert metrics["ttft_s"].lo <= metrics["ttft_s"].value <= metrics["ttft_s"].hi
    assert found.conditions["completed"] == found.conditions["requests"] == 60
    assert found.conditions["failures"] == {}
    assert found.conditions["percentiles"]["ttft_s"]["n"] == metrics["ttft_s"].n
    assert len(found.repeats) == 3


def test_repeats_end_when_the_deciding_metrics_are_narrow() -> None:
    with known_server(0.02, 0.005) as target:
        loose = run(target, 2, min_repeats=3, max_repeats=6, precision=10.0)
        spent = run(target, 2, min_repeats=3, max_repeats=6, precision=1e-9, budget_s=0.0)
    assert len(loose.repeats) == 3
    assert len(spent.repeats) == 1


def test_a_cell_of_failures_has_no_figure_and_says_which() -> None:
    with known_server(0.005, 0.001, "http_5xx", every=1) as target:
        about = subject(2)
        body = Arranged(["a b c"] * 10, [OSL] * 10)
        found = measure(target, about, lambda _: body, Effort(10, warm_up=0))
    assert found.evidence.metrics == {}
    assert not found.usable
    assert found.conditions["failures"] == {"http_5xx": 10}
    assert len(found.repeats) == 1  # repeating would not help


def test_failures_beside_successes_are_counted_and_not_averaged() -> None:
    with known_server(0.01, 0.002, "cut", every=4) as target:
        body = Arranged(["a b c"] * 32, [OSL] * 32)
        found = measure(target, subject(4), lambda _: body, Effort(32, 1, 1, warm_up=0))
    assert found.conditions["failures"] == {"cut": 8}
    assert found.conditions["completed"] == 24
    assert found.evidence.metrics["ttft_s"].n <= 24


def interrupt_after_an_answer(target: Target) -> None:
    """SIGINT to this process when the server has sent the last token of a few answers."""
    answered = 0.0
    while answered < 4:
        time.sleep(0.1)
        with urlopen(f"http://{target.host}:{target.port}/lateness") as reply:
            answered += json.load(reply)["last_tokens"]
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_cell_keeps_what_it_has() -> None:
    with known_server(0.05, 0.02) as target:
        threading.Thread(target=interrupt_after_an_answer, args=(target,)).start()
        found = run(target, 2, waves=100, warm_up=0)
    assert found.conditions["interrupted"]
    assert 0 < found.conditions["completed"] < 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_warm_up_ends_the_cell_at_once(number: signal.Signals) -> None:
    # the warm-up alone takes 0.4 s, its first token 0.3 s; the signal comes between
    with known_server(0.3, 0.02) as target:
        about = subject(2)
        body = Arranged(["a b c"] * 400, [OSL] * 400)

        def arrangement(repeat: int) -> Arranged:
            assert repeat == -1, "only the warm-up may begin"
            threading.Timer(0.15, os.kill, (os.getpid(), number)).start()
            return body

        found = measure(target, about, arrangement, Effort(400))
    assert found.conditions["interrupted"]
    assert found.repeats == ()
    assert found.evidence.metrics == {}


def test_a_signal_while_prompts_are_made_ends_the_cell_too() -> None:
    with known_server(0.01, 0.001) as target:

        def arrangement(repeat: int) -> Arranged:
            if repeat == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return Arranged(["a b c"] * 4, [OSL] * 4)

        found = measure(target, subject(2), arrangement, Effort(4, 3, 3, warm_up=0))
    assert found.conditions["interrupted"]
    assert len(found.repeats) == 1


def test_answers_of_their_own_length_give_the_cell_its_osl() -> None:
    with known_server(0.01, 0.002, "short", every=1) as at:
        body = Arranged(["a b c"] * 8, [OSL] * 8)
        any_length = replace(at, exact=False)
        found = measure(any_length, subject(2), lambda _: body, Effort(8, 1, 1, warm_up=0))
    assert found.conditions["failures"] == {}
    assert found.evidence.workload.osl == OSL - 1
    assert found.evidence.workload.length_spread == 0.0  # all of them one token short
    assert found.conditions["osl_asked"] == OSL
    assert found.conditions["tokens"]["tokens"] == 8 * (OSL - 1)


def test_answers_of_several_lengths_give_the_cell_their_spread() -> None:
    with known_server(0.01, 0.002, "short", every=2) as at:
        body = Arranged(["a b c"] * 8, [OSL] * 8)
        about = subject(2)
        equal = replace(about, workload=replace(about.workload, length_spread=0.0))
        any_length = replace(at, exact=False)
        found = measure(any_length, equal, lambda _: body, Effort(8, 1, 1, warm_up=0))
    # half of them 9 tokens, half 10: a deviation of 0.5 around 9.5
    assert found.evidence.workload.osl == OSL - 0.5
    assert found.evidence.workload.length_cv == pytest.approx(0.5 / 9.5)


def test_what_stands_against_the_token_times_is_said() -> None:
    with known_server(0.01, 0.002, "two_tokens_a_chunk", every=1) as target:
        body = Arranged(["a b c"] * 8, [OSL] * 8)
        found = measure(target, subject(2), lambda _: body, Effort(8, 1, 1, warm_up=0))
    assert found.conditions["remarks"] == [
        "8 answers have several tokens per chunk: ITL is between chunks"
    ]


def test_a_static_batch_is_timed_as_one() -> None:
    with known_server(0.03, 0.01) as target:
        about = subject(4, "static_batch")
        body = Arranged(["a b c"] * 4, [OSL] * 4)
        found = measure(target, about, lambda _: body, Effort(4, 3, 3))
    # 0.03 + 9 x 0.01 = 0.12 s for the whole batch, 40 tokens: 333 tok/s
    metrics = found.evidence.metrics
    assert 0.12 <= metrics["e2e_latency_s"].value < 0.4
    assert metrics["e2e_latency_s"].n == 3
    rate = 40 / metrics["e2e_latency_s"].value
    assert metrics["output_tok_s"].value == pytest.approx(rate, rel=0.1)
    assert metrics_of([], "static_batch") == {}
