"""The recommendation for display: one line, three values, the bounds, the reasons, and the
measured support. The explorer's card and the report's first page show this record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from shardwise import metrics
from shardwise.analysis.advice import Advice, NoAdvice, Use
from shardwise.analysis.intervals import scaled
from shardwise.analysis.layouts import LayoutStudy
from shardwise.engines.registry import get
from shardwise.evidence.record import Evidence, Interval
from shardwise.layout.deployment import Layout
from shardwise.planner.rank import Candidate
from shardwise.reports.about import KnownError
from shardwise.reports.numbers import number, scale_for, value_and_bounds
from shardwise.reports.plan_words import BINDING
from shardwise.workload.workload import Slo

if TYPE_CHECKING:
    from shardwise.reports.study_output import StudyOutput

Met = Literal["met", "within", "missed"]


class Headline(msgspec.Struct, frozen=True):
    """One large number: `895`, `± 9 %`, `821–976`, all in `unit`."""

    label: str
    text: str
    unit: str
    plus_minus: str  #: half of the 80 % interval in percent of the value; "" if exact
    bounds: str


class Chip(msgspec.Struct, frozen=True):
    """A bound and whether it is met: `within` if the value meets it but its interval does not."""

    text: str
    met: Met
    detail: str


class Shown(msgspec.Struct, frozen=True):
    """A deployment (`evidence` describes one replica, its layout has all of them), and throughput
    and cost of its node for `gpus` paid GPUs."""

    evidence: Evidence
    node_output_tok_s: Interval
    cost: Interval
    cost_metric: str
    gpus: int

    @classmethod
    def of(cls, candidate: Candidate) -> Shown:
        """Return the displayed values of a plan's candidate."""
        return cls(
            candidate.evidence,
            candidate.node_output_tok_s,
            candidate.cost,
            candidate.cost_metric,
            candidate.gpus_paid,
        )

    @property
    def layout(self) -> str:
        """Name of the layout."""
        return self.evidence.deployment.layout.name

    @property
    def title(self) -> str:
        """Layout as displayed."""
        return title_of(self.evidence.deployment.layout)

    @property
    def tok_s_per_gpu(self) -> Interval:
        """Output tokens per second and GPU."""
        return scaled(self.node_output_tok_s, 1.0 / self.gpus)

    @property
    def usd_per_gpu_hour(self) -> float | None:
        """The price behind `cost`; None if it is in GPU-hours."""
        if self.cost_metric != metrics.COST.name:
            return None
        return metrics.usd_per_hour(self.cost.value, self.tok_s_per_gpu.value)


def title_of(layout: Layout) -> str:
    """`8 × TP1`, `4 × (TP2 × EP2)`."""
    one = layout_words(layout.name)
    return f"{layout.replicas} × {f'({one})' if ' ' in one else one}"


def layout_words(name: str) -> str:
    """A layout's name as displayed: `TP2 × EP2`."""
    return name.replace(" x ", " × ")


class Answer(msgspec.Struct, frozen=True):
    """What to deploy for one use.

    Attributes:
        asked: The bounds and the rate, as text.
        found: Whether a layout meets every bound and sustains the rate. If not, the numbers
            describe the nearest.
        title: "8 × TP1".
        line: Replicas, requests in flight, engine, dtype and price.
        numbers: Throughput per GPU, TPOT and cost.
        why: Why this layout and not the runner-up; or why nothing was found.
        ground: How it relates to measured rows.
        shown: The deployment that the numbers describe; None if there is none.
    """

    use: Use
    asked: str
    found: bool
    title: str
    line: str
    numbers: tuple[Headline, ...] = ()
    chips: tuple[Chip, ...] = ()
    why: str = ""
    ground: str = ""
    note: str = ""
    shown: Shown | None = None


class Ground(msgspec.Struct, frozen=True):
    """Measured support of predictions on a GPU with an engine: errors on its measured rows, and by
    layout what no row has."""

    gpu: str
    engine: str
    errors: Sequence[KnownError] = ()
    unseen: Mapping[str, Sequence[str]] | None = None

    @property
    def calibrated(self) -> bool:
        """Whether the profile has errors on measured rows."""
        return bool(self.errors)

    def words(self, layout: str) -> str:
        """Say in one line whether `layout` was measured, the number of rows, and their errors."""
        where = f"{self.gpu} with {self.engine}"
        missing = ", ".join((self.unseen or {}).get(layout, ()))
        if not self.errors:
            return (
                f"Not measured: no rows of {where} ({missing or 'kernel tables only'}). "
                "Measure "
                "first."
            )
        known = sorted(self.errors, key=lambda e: -e.rows)[:2]
        most = known[0].rows
        off = ", ".join(
            f"{number(e.fitted_pct, 1)} % in {metrics.ALL[e.metric].label}"
            f"{'' if e.rows == most else f' (n={e.rows})'}"
            for e in known
        )
        ground = f"Not measured ({missing})" if missing else "Measured"
        return f"{ground}: {most} rows of {where}, mean error {off}."


def ground_of(output: StudyOutput) -> Ground:
    """Return the measured support of a study's predictions."""
    d = output.study.evidence[0].deployment
    errors = output.about.errors if output.about else ()
    return Ground(d.gpu, d.engine, errors, output.layouts.unseen if output.layouts else None)


def answers_of(
    advice: Sequence[Advice | NoAdvice], layouts: LayoutStudy | None, ground: Ground
) -> list[Answer]:
    """Return one answer per piece of advice. `layouts` were explored for the first, with its
    bounds and rate."""
    return [
        _found(a, layouts if i == 0 else None, ground)
        if isinstance(a, Advice)
        else _missed(a, layouts if i == 0 else None, ground)
        for i, a in enumerate(advice)
    ]


def shown_of(advice: Advice) -> Shown:
    """Return the deployment of a piece of advice."""
    choice, evidence = advice.choice, advice.evidence
    deployed = evidence.deployment.with_layout(replicas=choice.copies)
    return Shown(
        replace(evidence, deployment=deployed),
        choice.output_tok_s,
        choice.cost,
        choice.cost_metric,
        choice.gpus,
    )


def _found(advice: Advice, layouts: LayoutStudy | None, ground: Ground) -> Answer:
    shown = shown_of(advice)
    return Answer(
        use=advice.use,
        asked=_asked(advice.slo, layouts),
        found=True,
        title=shown.title,
        line=_line(shown),
        numbers=three_numbers(shown),
        chips=bound_chips(advice.slo, shown.evidence) + rate_chips(layouts, shown.layout),
        why=_why(layouts),
        ground=ground.words(shown.layout),
        note=advice.note,
        shown=shown,
    )


def _missed(advice: NoAdvice, layouts: LayoutStudy | None, ground: Ground) -> Answer:
    asked = _asked(advice.slo, layouts)
    title, why = "Nothing meets this", f"Nearest: {advice.nearest}."
    if layouts is None or not (layouts.missing or layouts.free):
        return Answer(advice.use, asked, False, title, "", why=why)
    shown = Shown.of(_nearest(layouts))
    if _short_of_rate(layouts):
        title, why = f"Not enough for {layouts.request_rate:g} requests/s", _most(layouts, shown)
    return Answer(
        use=advice.use,
        asked=asked,
        found=False,
        title=title,
        line=f"Nearest: {shown.title}, {_line(shown, brief=True)}",
        numbers=three_numbers(shown),
        chips=bound_chips(advice.slo, shown.evidence) + rate_chips(layouts, shown.layout),
        why=why,
        ground=ground.words(shown.layout),
        shown=shown,
    )


def _short_of_rate(layouts: LayoutStudy) -> bool:
    """Return whether the bounds can be met and only the rate is too high."""
    asked = (layouts.request_rate or 0.0) * layouts.osl
    return 0 < max(map(_tok_s, layouts.free), default=0.0) < asked


def _tok_s(candidate: Candidate) -> float:
    return candidate.node_output_tok_s.value


def _nearest(layouts: LayoutStudy) -> Candidate:
    """Return the candidate with the highest rate within the bounds if only the rate is too high,
    else the one that misses a bound by the least."""
    if _short_of_rate(layouts):
        return max(layouts.free, key=_tok_s)
    return (*layouts.missing, *layouts.free)[0]


def _most(layouts: LayoutStudy, shown: Shown) -> str:
    """Say which rate one node sustains, and how many nodes are needed."""
    rate, most = layouts.request_rate, layouts.most_carried(shown.layout)
    assert rate
    assert most
    return (
        f"One node sustains at most {number(most.value)} requests/s within the bounds, as "
        f"{shown.title}; {rate:g} requests/s need {math.ceil(rate / most.value)} such nodes."
    )


def _line(shown: Shown, *, brief: bool = False) -> str:
    """`8 replicas with 1 GPU, 44 in flight each, vLLM, fp8 weights, 1.60 USD per GPU-hour`;
    `brief`: without the replicas."""
    d = shown.evidence.deployment
    each, copies = d.layout.replica_gpus, d.replicas
    who = f"{copies} replica{'s' if copies > 1 else ''} with {each} GPU{'s' if each > 1 else ''}"
    flight, engine = in_flight(shown.evidence), get(d.engine).title
    parts = ["" if brief else who, flight, engine, f"{d.dtypes.weight} weights", price_words(shown)]
    return ", ".join(filter(None, parts))


def price_words(shown: Shown) -> str:
    """`1.60 USD per GPU-hour`; "" where no price is known."""
    price = shown.usd_per_gpu_hour
    if price is None:
        return ""
    cents = abs(100 * price - round(100 * price)) < 1e-6
    return f"{f'{price:,.2f}' if cents else f'{price:.4g}'} USD per GPU-hour"


def in_flight(evidence: Evidence) -> str:
    """`44 in flight each`."""
    each = " each" if evidence.deployment.replicas > 1 else ""
    return f"{evidence.workload.concurrency} in flight{each}"


def three_numbers(shown: Shown) -> tuple[Headline, ...]:
    """Return throughput per GPU, TPOT and cost of a token, as far as the result has them."""
    made = [headline("Throughput", shown.tok_s_per_gpu, "tok/s per GPU")]
    if "tpot_s" in shown.evidence.metrics:
        made.append(headline("TPOT", shown.evidence.metrics["tpot_s"], "s"))
    made.append(headline("Cost", shown.cost, metrics.ALL[shown.cost_metric].unit))
    return tuple(made)


def headline(label: str, value: Interval, unit: str) -> Headline:
    """Return `value` with its interval as a share and as a range."""
    scale = scale_for([value], unit)
    text, bounds = value_and_bounds(value, scale)
    return Headline(label, text, scale.unit, plus_minus(value), bounds[1:-1])


def plus_minus(value: Interval) -> str:
    """`± 9 %`: half of the interval, in percent of the value; "" without an interval."""
    if value.lo == value.hi or not value.value:
        return ""
    return f"± {number(50.0 * (value.hi - value.lo) / value.value, 0)} %"


def bound_chips(slo: Slo, evidence: Evidence) -> tuple[Chip, ...]:
    """Return for each bound on a latency whether the whole interval, only the value, or neither
    meets it."""
    found = []
    for name, bound in slo.bounds().items():
        if name not in evidence.metrics:
            continue
        value = evidence.metrics[name]
        met: Met = "met" if value.hi <= bound else "within" if value.value <= bound else "missed"
        scale = scale_for([value], "s")
        text, bounds = value_and_bounds(value, scale)
        found.append(Chip(_bound(name, bound), met, f"{text} {scale.unit} {bounds}".rstrip()))
    return tuple(found)


def rate_chips(layouts: LayoutStudy | None, layout: str) -> tuple[Chip, ...]:
    """Return whether `layout` sustains the rate, and its highest rate within the bounds."""
    if layouts is None or not layouts.request_rate:
        return ()
    rate, most = layouts.request_rate, layouts.most_carried(layout)
    if most is None:
        return (Chip(f"{rate:g} requests/s", "missed", "misses the bounds at any rate"),)
    met: Met = "met" if most.lo >= rate else "within" if most.value >= rate else "missed"
    text, bounds = value_and_bounds(most)
    return (Chip(f"{rate:g} requests/s", met, f"at most {text} {bounds}"),)


def _why(layouts: LayoutStudy | None) -> str:
    if layouts is None or not layouts.ranked:
        return "Cheapest output tokens, by the pessimistic end of the interval."
    best, rest = layouts.ranked[0], layouts.ranked[1:]
    run, meet = len(layouts.layouts), len(layouts.ranked)
    said = f"The only one of {run} layouts that meets the bounds" if run > 1 else "The only layout"
    if rest:
        quick = " (then fastest)" if layouts.request_rate else ""
        which = (
            f"{run} layouts" if meet == run else f"the {meet} of {run} layouts that meet the bounds"
        )
        said = (
            f"First of {which}, by cost{quick}, ties broken by replicas and TTFT. "
            f"Runner-up "
            f"{Shown.of(rest[0]).title}: {rest[0].behind}"
        )
    return f"{said}. Largest part of the time: {BINDING[best.binding]}."


def _asked(slo: Slo, layouts: LayoutStudy | None) -> str:
    rate = layouts.request_rate if layouts else None
    parts = [f"{rate:g} requests/s"] if rate else []
    parts += [_bound(name, bound) for name, bound in slo.bounds().items()]
    return ", ".join(parts) or "no bounds: cheapest tokens"


def _bound(name: str, bound_s: float) -> str:
    scale = scale_for([bound_s], "s")
    return f"{metrics.ALL[name].label} ≤ {bound_s / scale.factor:g} {scale.unit}"
