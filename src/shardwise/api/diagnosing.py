"""`diagnose`: a node read from its tools or from pasted text, and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from shardwise.api.result import Result
from shardwise.errors import InputError
from shardwise.files import AnyPath

if TYPE_CHECKING:
    from shardwise.doctor.diagnosis import Diagnosis
    from shardwise.doctor.startup_check import Comparison
    from shardwise.node.reading.read import Reading
    from shardwise.reports.table import Table


class NodeDiagnosis(Result):
    """A node's GPUs and links, the all-reduce of each TP size, and what to change."""

    kind = "doctor"

    def __init__(
        self, diagnosis: Diagnosis, engines: Sequence[str], compared: Sequence[Comparison]
    ) -> None:
        self.diagnosis = diagnosis
        self.engines = tuple(engines)
        self.compared = tuple(compared)  #: start-up logs beside their predictions

    @property
    def reading(self) -> Reading:
        """What was read."""
        return self.diagnosis.reading

    def summary(self) -> str:
        """The findings, the most severe first."""
        return "\n".join(f"{f.severity}: {f.what}" for f in self.diagnosis.findings)

    def tables(self) -> list[Table]:
        """GPUs, links and verdicts where there are some, then start-up logs."""
        from shardwise.reports import doctor_tables

        found: list[Table] = []
        node = self.reading.node
        if node is not None and node.devices:
            found.append(doctor_tables.device_table(node))
            if node.links:
                found.append(doctor_tables.link_table(node))
                found.append(doctor_tables.verdict_table(self.diagnosis, self.engines))
        if self.reading.startups:
            found.append(doctor_tables.startup_table(self.reading.startups))
        return found

    def save(self, path: AnyPath) -> None:
        """Write the node to a TOML file, which `plan` and others take as `node_file`.

        Raises:
            InputError: No GPU was read, or the file cannot be written.
        """
        from shardwise.node.files import write

        node = self.reading.node
        if node is None or not node.devices:
            raise InputError("no GPU was found to save", remedy="read a node with GPUs")
        write(Path(path), node)

    def _answer(self) -> dict[str, Any]:
        from shardwise.doctor.documents import diagnosis_document

        return diagnosis_document(self.diagnosis, self.engines, self.compared)


def diagnose(
    texts: Mapping[str, str] | None = None,
    *,
    node_file: AnyPath | None = None,
    gpu: str = "",
    engines: Sequence[str] = (),
    model: str = "",
    tp_size: int = 0,
    pp_size: int = 0,
    dtype: str = "auto",
    engine_version: str = "",
) -> NodeDiagnosis:
    """Read a node and say which GPUs to use for each TP size, and what to change.

    Args:
        texts: Pasted output of a node's tools and start-up logs, by where each is from; None reads
            this machine's tools.
        node_file: Node file to read instead.
        gpu: Name of GPUs that the text does not name.
        engines: `vllm`, `sglang`; empty takes both.
        model: Model of a start-up log, to predict beside it.
        tp_size: TP size of a log that does not say it; 0: unknown.
        pp_size: Pipeline stages of a log that does not say it; 0: unknown.
        dtype: Dtype that a log's weights were loaded in; `auto` is the checkpoint's.
        engine_version: Version of the engine of a log that does not say it.

    Raises:
        InputError: A text or file holds nothing that is known, or both are given.
    """
    from shardwise.doctor.diagnosis import diagnose as diagnosis_of
    from shardwise.doctor.startup_check import compare
    from shardwise.node.generations import name_of
    from shardwise.perfmodel.node_all_reduce import ENGINES

    reading = _named(_reading(texts, node_file), gpu)
    chosen = tuple(engines) or ENGINES
    compared: tuple[Comparison, ...] = ()
    if model:
        name = gpu or (name_of(reading.node) if reading.node is not None else "")
        given: dict[str, Any] = {"tp_size": tp_size, "pp_size": pp_size, "weight_dtype": dtype}
        compared = compare(reading.startups, model, name, version=engine_version, **given)
    return NodeDiagnosis(diagnosis_of(reading, chosen), chosen, compared)


def _reading(texts: Mapping[str, str] | None, node_file: AnyPath | None) -> Reading:
    from shardwise.node.files import read as read_node
    from shardwise.node.here import read_here
    from shardwise.node.reading.read import Reading, merge, read, require_something

    if node_file is not None:
        if texts:
            raise InputError("a node file and texts are both given", "allowed: one of them")
        return Reading(str(node_file), read_node(Path(node_file)))
    if not texts:
        return read_here()
    return merge([require_something(read(text, source)) for source, text in texts.items()])


def _named(reading: Reading, gpu: str) -> Reading:
    """`reading` with `gpu` as the name of unnamed GPUs."""
    node = reading.node
    if not gpu or node is None:
        return reading
    devices = tuple(replace(d, name=d.name or gpu) for d in node.devices)
    return replace(reading, node=replace(node, devices=devices))
