"""Rules for the storage format of each tensor of a checkpoint, by name."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shardwise.architecture.formats import BF16, Format
from shardwise.architecture.quantization.names import Names
from shardwise.architecture.tensor import Part, Tensor

#: Parts whose matrices engines quantize by default.
_LINEAR: frozenset[Part] = frozenset({"attention", "mlp", "experts", "shared_experts"})
#: Small matrices that engines always keep in 16 or 32 bits.
_NEVER = frozenset(
    {
        *("indexer.weights_proj", "compressor", "hyper_connection", "eh_proj"),
        *("shared_expert_gate", "routed_expert_down_proj", "routed_expert_up_proj"),
    }
)


class Rule(msgspec.Struct, frozen=True):
    """Tensors whose names are in `names` are stored in `format`.

    `everywhere`: also tensors that engines do not quantize by default: lm_head, router, embedding.
    """

    names: Names
    format: Format
    everywhere: bool = False


class Rules(msgspec.Struct, frozen=True):
    """Exclusions apply first, then the first rule that matches a tensor's name, else `plain`.

    Attributes:
        plain: Format of unquantized tensors.
        excluded: Names of tensors that stay in `plain`.
        kv_dtype: KV cache dtype that the checkpoint specifies.
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
        """Return the format of `tensor`, whose full name in the checkpoint is `name`."""
        if not tensor.gemm or not self.rules:
            return self.plain
        usual = tensor.part in _LINEAR and tensor.gemm not in _NEVER
        candidates = [rule for rule in self.rules if usual or rule.everywhere]
        if not candidates:
            return self.plain
        # configs made for an engine have the name of the fused module
        names = (name, f"{name.rpartition('.')[0]}.{tensor.gemm.rpartition('.')[2]}")
        if any(n in self.excluded for n in names):
            return self.plain
        found = (rule.format for rule in candidates if any(n in rule.names for n in names))
        return next(found, self.plain)

    def formats_of(self, layer: str, tensors: Sequence[Tensor]) -> tuple[Format, ...]:
        """Return the formats of the tensors of the layer named `layer` ("model.layers.3")."""
        if not self.rules:
            return (self.plain,) * len(tensors)
        return tuple(self.format_of(f"{layer}.{t.name}", t) for t in tensors)
