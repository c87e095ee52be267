"""What the rows of a fit cover, and what is new in a question.

The distance is a list of what is new, from the outside in: the GPU, the engine, the pair of both,
the model's family, the model on that pair, the dtype on that pair, the version, the layout,
pipelines. All up to the layout correspond to a kind of fold (`crossval.Fold.kind`), whose errors
set the interval, but for kernels of an engine that was never timed. No row has pipeline stages,
shared caches or several nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from shardwise.engines.registry import get
from shardwise.layout.deployment import Layout

if TYPE_CHECKING:
    from shardwise.perfmodel.batches import Batch

Unseen = Literal[
    "gpu",
    "engine",
    "untimed",
    "pair",
    "plugin",
    "family",
    "model",
    "dtype",
    "version",
    "layout",
    "pipeline",
    "sharing",
    "links",
    "nodes",
]
#: In words, for notes.
WORDS: Final[dict[Unseen, str]] = {
    "gpu": "no row of this GPU",
    "engine": "no row of this engine",
    "untimed": "this engine's kernels were never timed on a GPU",
    "pair": "GPU and engine never seen together",
    "plugin": "all rows of this GPU and engine ran with a plugin that replaces its kernels",
    "family": "no row of this model family",
    "model": "model not seen on this GPU and engine",
    "dtype": "weight dtype not seen on this GPU and engine",
    "version": "engine version not seen",
    "layout": "layout not seen",
    "pipeline": "no row has pipeline stages",
    "sharing": "no row has decode context parallelism",
    "links": "no row has this node's links",
    "nodes": "no row spans nodes",
}

#: With one of these, a GPU and engine are not calibrated.
UNCALIBRATED: Final[frozenset[Unseen]] = frozenset({"gpu", "engine", "pair", "plugin"})

_MOST_NAMED: Final = 3  #: places where a model was measured
#: Parts of a layout other than TP, by the mark in its name.
_FEATURES: Final = {
    "DP": "data-parallel attention",
    "EP": "whole experts",
    "PP": "pipeline stages",
    "DCP": "decode context parallelism",
}


#: Parts that few rows have, by the mark in a layout's name.
_NOWHERE: Final[dict[str, Unseen]] = {"PP": "pipeline", "DCP": "sharing"}


#: Engines with kernels of their own that no table holds. The built-in one copies the KV cache of a
#: batch before each attention.
_UNTIMED: Final = frozenset({"builtin"})


class Asked(msgspec.Struct, frozen=True):
    """The properties of a question that errors depend on."""

    gpu: str
    engine: str
    version: str  #: of the engine; "" where none was named
    model: str  #: as `models.key_of`
    family: str
    weight_dtype: str
    moe: bool
    kernel_error: float = 0.0  #: typical, of kernels carried over from elsewhere
    gpus_per_node: int = 0  #: where there are several nodes; 0: all GPUs are in one
    own_links: bool = False  #: those of a node file, not the ones such GPUs usually have
    plugin: str = ""  #: that replaces the engine's model code and kernels; "": none

    @property
    def pair(self) -> str:
        """GPU and engine, as in a profile's keys."""
        return f"{self.gpu}/{self.engine}"


def asked_of(batch: Batch) -> Asked:
    """Return the properties of a batch's rows."""
    key, arch = batch.key, batch.arch
    return Asked(
        batch.gpu.id,
        key.engine,
        key.version,
        batch.model_key,
        arch.family,
        key.weight_dtype,
        arch.moe is not None,
        own_links=bool(batch.gpu.all_reduce_source),
        plugin=key.plugin,
    )


class Knowledge(msgspec.Struct, frozen=True, dict=True):
    """What the rows of a fit cover.

    Attributes:
        versions: Versions named in rows, by "gpu/engine".
        dtypes: "gpu/engine/weight_dtype".
        layouts: By "gpu/engine/model", names of layouts.
        plugins: Plugins of the rows of "gpu/engine", "" for rows without one.
    """

    gpus: frozenset[str]
    engines: frozenset[str]
    versions: dict[str, frozenset[str]]
    families: frozenset[str]
    dtypes: frozenset[str]
    layouts: dict[str, frozenset[str]]
    plugins: dict[str, frozenset[str]] = {}

    def unseen(self, asked: Asked, layout: Layout) -> tuple[Unseen, ...]:
        """Return what is new in a question, without what follows from it."""
        missing = self._unseen_place(asked)
        known_pair = asked.pair in self.versions
        cell = f"{asked.pair}/{asked.model}"
        if asked.family not in self.families:
            missing.append("family")
        elif known_pair and cell not in self.layouts:
            missing.append("model")
        if known_pair and f"{asked.pair}/{asked.weight_dtype}" not in self.dtypes:
            missing.append("dtype")
        if known_pair and self._is_new(asked):
            missing.append("version")
        if cell in self.layouts:
            if layout.name not in self.layouts[cell]:
                missing.append("layout")
        elif _is_unusual(layout):
            missing.append("layout")
        missing += [name for mark, name in _NOWHERE.items() if self._lacks(mark, layout)]
        if asked.own_links and layout.stage_gpus > 1 and "gpu" not in missing:
            missing.append("links")
        if asked.gpus_per_node and layout.replica_gpus > asked.gpus_per_node:
            missing.append("nodes")
        return tuple(missing)

    def _unseen_place(self, asked: Asked) -> list[Unseen]:
        """Return what is new about the GPU and the engine."""
        missing: list[Unseen] = []
        if asked.gpu not in self.gpus:
            missing.append("gpu")
        if asked.engine not in self.engines:
            missing.append("engine")
        if asked.pair in self.versions:
            return ["plugin"] if self._lacks_plugin(asked) else missing
        if asked.engine in _UNTIMED and asked.gpu in self.gpus:
            missing.append("untimed")
        return missing or ["pair"]

    def _lacks_plugin(self, asked: Asked) -> bool:
        """Return whether rows of the pair ran only with other plugins, or only without one."""
        return asked.plugin not in self.plugins.get(asked.pair, (asked.plugin,))

    def _lacks(self, mark: str, layout: Layout) -> bool:
        """Return whether `layout` has `mark` in its name and no row's layout does."""
        return mark in layout.name and not any(mark in name for name in self._names)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset().union(*self.layouts.values())

    def far(self, asked: Asked, layout: Layout) -> str:
        """Say why no row is similar to `layout` on this GPU and engine; "" if one is."""
        engine = get(asked.engine).title
        if asked.pair not in self.versions:
            return f"there are no rows of {asked.gpu} with {engine}"
        if self._lacks_plugin(asked):
            used = " or ".join(sorted(self.plugins[asked.pair] - {""}))
            return f"all rows of {asked.gpu} with {engine} ran with the plugin {used}"
        if asked.gpus_per_node and layout.replica_gpus > asked.gpus_per_node:
            return "no row spans nodes"
        if asked.own_links and layout.stage_gpus > 1:
            return "no row has this node's links"
        seen = [name for _, name in self._cells(lambda pair, _: pair == asked.pair)]
        missing = [
            words
            for mark, words in _FEATURES.items()
            if mark in layout.name and not any(mark in name for name in seen)
        ]
        return f"no row of {asked.gpu} with {engine} has {' or '.join(missing)}" if missing else ""

    def nearest(self, asked: Asked) -> str:
        """Name the layouts measured for this model, on this pair or else elsewhere; "" for none.

        Rows with other weight dtypes count only if there are none with this one.
        """
        if own := self._nearest(asked, asked.model):
            return own
        shape = asked.model.rpartition(":")[0]
        others = {cell.rpartition("/")[2] for cell in self.layouts}
        return "; ".join(
            f"{self._nearest(asked, other)} (weights in {other.rpartition(':')[2]})"
            for other in sorted(others)
            if other.rpartition(":")[0] == shape
        )

    def _nearest(self, asked: Asked, model: str) -> str:
        by_pair: dict[str, list[str]] = {}
        for pair, name in sorted(self._cells(lambda _, measured: measured == model)):
            by_pair.setdefault(pair, []).append(name)
        if asked.pair in by_pair:
            by_pair = {asked.pair: by_pair[asked.pair]}

        def differs(pair: str) -> tuple[bool, bool, str]:
            gpu, _, engine = pair.partition("/")
            return gpu != asked.gpu, engine != asked.engine, pair

        nearest = sorted(by_pair, key=differs)[:_MOST_NAMED]
        where = [f"{p.replace('/', ' with ')} as {', '.join(by_pair[p])}" for p in nearest]
        more = len(by_pair) - len(nearest)
        return "; ".join(where) + (f"; {more} more" if more else "")

    def _cells(self, wanted: Callable[[str, str], bool]) -> list[tuple[str, str]]:
        """("gpu/engine", layout) of each cell whose pair and model are wanted."""
        found = []
        for cell, names in self.layouts.items():
            pair, _, model = cell.rpartition("/")
            if wanted(pair, model):
                found += [(pair, name) for name in names]
        return found

    def _is_new(self, asked: Asked) -> bool:
        """Return whether no row has the version and the engine's facts are from another one."""
        seen = self.versions[asked.pair]
        if not asked.version or asked.version in seen:
            return False
        return bool(seen - {""}) or not get(asked.engine).is_known(asked.version)


def _is_unusual(layout: Layout) -> bool:
    """Return whether the layout has pipelines, data-parallel attention or shared caches, which few
    rows have."""
    return layout.pp_size > 1 or layout.attention_dp > 1 or layout.dcp_size > 1


def knowledge_of(parts: Iterable[tuple[Batch, Sequence[Layout]]]) -> Knowledge:
    """Return what batches cover, with the layouts of their rows."""
    versions: dict[str, set[str]] = {}
    layouts: dict[str, set[str]] = {}
    plugins: dict[str, set[str]] = {}
    gpus, engines, families, dtypes = set(), set(), set(), set()
    for batch, some in parts:
        if not some:
            continue
        asked = asked_of(batch)
        gpus.add(asked.gpu)
        engines.add(asked.engine)
        families.add(asked.family)
        versions.setdefault(asked.pair, set()).add(asked.version)
        plugins.setdefault(asked.pair, set()).add(asked.plugin)
        dtypes.add(f"{asked.pair}/{asked.weight_dtype}")
        layouts.setdefault(f"{asked.pair}/{asked.model}", set()).update(x.name for x in some)
    return Knowledge(
        frozenset(gpus),
        frozenset(engines),
        {k: frozenset(v) for k, v in versions.items()},
        frozenset(families),
        frozenset(dtypes),
        {k: frozenset(v) for k, v in layouts.items()},
        {k: frozenset(v) for k, v in plugins.items()},
    )
