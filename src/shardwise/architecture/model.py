"""What a transformer is made of, as far as time and memory care."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Moe:
    """Mixture-of-experts MLP: which layers have it and what a token touches."""

    num_experts: int
    top_k: int
    expert_intermediate_size: int
    num_moe_layers: int
    shared_intermediate_size: int = 0  #: of the experts every token takes; 0: none


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention: one compressed KV vector a token, shared by all heads."""

    q_lora_rank: int  #: 0: the query projection is not compressed
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer. Sizes are in elements, unsharded."""

    id: str
    family: str  #: `model_type` of config.json
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int  #: of the dense MLP layers; 0 where there are none
    vocab_size: int
    max_context: int
    tie_embeddings: bool = False
    attention_bias: bool = False  #: bias on q, k, v
    output_bias: bool = False  #: bias on the attention output
    qk_norm: bool = False
    attention_sinks: bool = False
    moe: Moe | None = None
    mla: Mla | None = None
    sliding_window: int = 0  #: tokens; 0: full attention everywhere
    num_sliding_layers: int = 0
    checkpoint_dtype: str = "bf16"  #: dtype of the published checkpoint
    quantization_block: int = 0  #: weights per scale along a dimension; 0: none or per channel

    @property
    def shape(self) -> str:
        """What models of one speed share: layers x hidden x intermediate, then the experts."""
        experts = f"+{self.moe.num_experts}x{self.moe.expert_intermediate_size}" if self.moe else ""
        return f"{self.num_layers}x{self.hidden_size}x{self.intermediate_size}{experts}"

    @property
    def num_moe_layers(self) -> int:
        return self.moe.num_moe_layers if self.moe else 0

    @property
    def num_dense_layers(self) -> int:
        return self.num_layers - self.num_moe_layers
