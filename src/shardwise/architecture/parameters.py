"""Parameter counts by part, and the bytes they take in each dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shardwise.architecture.model import Architecture
from shardwise.errors import InputError

#: Bytes per weight of the quantized matrices. mxfp4: 4 bits + one 8-bit scale per 32 (OCP MX 1.0);
#: nvfp4: 4 bits + one 8-bit scale per 16; int4: 4 bits + one 16-bit scale per 128 (AWQ, GPTQ).
WEIGHT_BYTES: Final = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "mxfp4": 0.5 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
    "fp4": 0.5 + 1 / 16,
    "int4": 0.5 + 2 / 128,
}
#: Of these the embeddings, lm_head, norms and router stay in bf16.
QUANTIZED: Final = frozenset(WEIGHT_BYTES) - {"fp32", "bf16", "fp16"}


@dataclass(frozen=True)
class Parameters:
    """Number of parameters in each part of a model."""

    attention: int
    mlp: int  #: dense MLP layers
    experts: int  #: all routed experts
    shared_experts: int
    router: int
    embedding: int
    lm_head: int  #: 0 where tied to the embedding
    norms: int
    active_experts: int  #: routed experts that one token touches

    @property
    def total(self) -> int:
        return (
            self.attention
            + self.mlp
            + self.experts
            + self.shared_experts
            + self.router
            + self.embedding
            + self.lm_head
            + self.norms
        )

    @property
    def active(self) -> int:
        """Parameters one token touches, embedding included (as Qwen and DeepSeek count)."""
        return self.total - self.experts + self.active_experts

    @property
    def multiplied(self) -> int:
        """Active parameters a token is multiplied with: the embedding look-up is left out.

        gpt-oss's model card counts its active parameters so; a tied embedding is the lm_head.
        """
        return self.active - (self.embedding if self.lm_head else 0)


def attention_matrices(arch: Architecture) -> tuple[tuple[int, int], ...]:
    """(in, out) of each attention matrix of one layer, unsharded: q k v first, output last."""
    h, heads = arch.hidden_size, arch.num_heads
    if arch.mla:
        m = arch.mla
        qk = m.qk_nope_head_dim + m.qk_rope_head_dim
        query = (
            ((h, m.q_lora_rank), (m.q_lora_rank, heads * qk))
            if m.q_lora_rank
            else ((h, heads * qk),)
        )
        return (
            *query,
            (h, m.kv_lora_rank + m.qk_rope_head_dim),
            (m.kv_lora_rank, heads * (m.qk_nope_head_dim + m.v_head_dim)),
            (heads * m.v_head_dim, h),
        )
    kv = arch.num_kv_heads * arch.head_dim
    return ((h, heads * arch.head_dim), (h, kv), (h, kv), (heads * arch.head_dim, h))


def count(arch: Architecture) -> Parameters:
    """Parameters of `arch` by part."""
    h, layers, moe = arch.hidden_size, arch.num_layers, arch.moe
    attention = layers * sum(rows * cols for rows, cols in attention_matrices(arch))
    q, kv = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
    attention += layers * ((q + 2 * kv) * arch.attention_bias + h * arch.output_bias)
    attention += layers * (arch.num_heads * arch.attention_sinks)
    # gpt-oss has biases in its experts and router, DeepSeek-V3 one correction a routed expert
    bias = arch.family == "gpt_oss"
    router_bias = bias or arch.family == "deepseek_v3"
    norms = h * (2 * layers + 1) + layers * 2 * arch.head_dim * arch.qk_norm
    if arch.mla:
        norms += layers * (arch.mla.q_lora_rank + arch.mla.kv_lora_rank)
    experts = active = shared = router = 0
    if moe:
        size = 3 * h * moe.expert_intermediate_size
        size += (2 * moe.expert_intermediate_size + h) * bias
        experts = moe.num_moe_layers * moe.num_experts * size
        active = moe.num_moe_layers * moe.top_k * size
        shared = moe.num_moe_layers * 3 * h * moe.shared_intermediate_size
        router = moe.num_moe_layers * moe.num_experts * (h + router_bias)
    return Parameters(
        attention=attention,
        mlp=arch.num_dense_layers * 3 * h * arch.intermediate_size,
        experts=experts,
        shared_experts=shared,
        router=router,
        embedding=arch.vocab_size * h,
        lm_head=0 if arch.tie_embeddings else arch.vocab_size * h,
        norms=norms,
        active_experts=active,
    )


def part_bytes(dtype: str, part: str) -> float:
    """Bytes per parameter of `part` in a checkpoint of `dtype`.

    Quantized checkpoints leave embeddings, lm_head, norms and router in bf16; mxfp4 ones (gpt-oss)
    quantize the experts only, so their attention is bf16 too (gpt-oss model card, OpenAI 2025).
    """
    kept = {"embedding", "lm_head", "norms", "router"}
    if dtype == "mxfp4":
        kept |= {"attention", "mlp"}
    return 2.0 if dtype in QUANTIZED and part in kept else WEIGHT_BYTES[dtype]


def stored_dtype(arch: Architecture, dtype: str) -> str:
    """The key of WEIGHT_BYTES that `dtype` means for `arch`; raises InputError for none.

    "auto" is the checkpoint's own; "fp4" is the checkpoint's own 4-bit float if it has one, else
    nvfp4, for published results say "fp4" of both.
    """
    own = arch.checkpoint_dtype
    if dtype == "auto":
        return own
    if dtype == "fp4":
        return own if own in {"mxfp4", "nvfp4"} else "nvfp4"
    if dtype not in WEIGHT_BYTES:
        raise InputError(
            f"weight dtype is {dtype[:40]!r}", f"allowed: auto, {', '.join(WEIGHT_BYTES)}"
        )
    return dtype


def weight_bytes(arch: Architecture, dtype: str) -> float:
    """Bytes of all weights of `arch` in `dtype`, unsharded."""
    p, dtype = count(arch), stored_dtype(arch, dtype)
    parts = {
        "attention": p.attention,
        "mlp": p.mlp,
        "experts": p.experts,
        "shared_experts": p.shared_experts,
        "router": p.router,
        "embedding": p.embedding,
        "lm_head": p.lm_head,
        "norms": p.norms,
    }
    return sum(n * part_bytes(dtype, part) for part, n in parts.items())
