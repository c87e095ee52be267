"""Rules that say how each tensor of a checkpoint is stored, by its name."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shardwise.architecture.formats import BF16, Format
from shardwise.architecture.quantization.names import Names
from shardwise.architecture.tensor import Part, Tensor

#: Parts whose matrices engines quantize without being told so by name.
_LINEAR: frozenset[Part] = frozenset({"attention", "mlp", "experts", "shared_experts"})
#: Small matrices that engines keep in 16 or 32 bits whatever the checkpoint's default is.
_NEVER = frozenset(
    {
        *("indexer.weights_proj", "compressor", "hyper_connection", "eh_proj"),
        *("shared_expert_gate", "routed_expert_down_proj", "routed_expert_up_proj"),
    }
)


class Rule(msgspec.Struct, frozen=True):
    """Tensors whose names are in `names` are stored in `format`.

    `everywhere`: also where engines do not quantize by themselves: lm_head, router, embedding.
    """

    names: Names
    format: Format
    everywhere: bool = False


class Rules(msgspec.Struct, frozen=True):
    """First the exclusions, then the first rule that names a tensor; else its plain dtype.

    Attributes:
        plain: Format of what is not quantized.
        excluded: Names that stay in `plain`.
        kv_dtype: KV cache dtype that the checkpoint asks for.
    """

    plain: Format = BF16
    rules: tuple[Rule, ...] = ()
    excluded: Names = msgspec.field(default_factory=Names)
    kv_dtype: str = "bf16"

    @property
    def tells_layers(self) -> bool:
        """Whether a tensor may have different formats in different layers."""
        return any(names.tells_layers for names in (self.excluded, *(r.names for r in self.rules)))

    def format_of(self, name: str, tensor: Tensor) -> Format:
        """Format of `tensor`, whose full name in the checkpoint is `name`."""
        if not tensor.gemm or not self.rules:
            return self.plain
        usual = tensor.part in _LINEAR and tensor.gemm not in _NEVER
        candidates = [rule for rule in self.rules if usual or rule.everywhere]
        if not candidates:
            return self.plain
        # configs made for an engine name the module that fuses several tensors
        names = (name, f"{name.rpartition('.')[0]}.{tensor.gemm.rpartition('.')[2]}")
        if any(n in self.excluded for n in names):
            return self.plain
        found = (rule.format for rule in candidates if any(n in rule.names for n in names))
        return next(found, self.plain)

    def formats_of(self, layer: str, tensors: Sequence[Tensor]) -> tuple[Format, ...]:
        """Formats of the tensors of the layer named `layer` ("model.layers.3")."""
        if not self.rules:
            return (self.plain,) * len(tensors)
        return tuple(self.format_of(f"{layer}.{t.name}", t) for t in tensors)
