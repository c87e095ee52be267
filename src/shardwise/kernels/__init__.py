"""Kernel times from measured tables, for any GPU of the catalogue.

An operator is called with sizes as numbers or arrays that broadcast, and answers with `Times`:
seconds per element, a `Provenance` code per element, the distance in octaves to the nearest
measurement, and the table's name.

    from shardwise.hardware.catalogue import default_catalogue
    from shardwise.kernels import gemm

    times = gemm(default_catalogue().gpu("h200"), "vllm", "fp8", m=[1, 64, 4096], n=8192, k=8192)
    times.seconds      # array([2.2e-05, 2.5e-05, 4.5e-04])
    times.provenance   # array([0, 0, 0]): measured

`typical_error` says how far off times of one provenance typically are, for the width of intervals.

Sizes are those of one rank and one call: the caller divides by parallel sizes and multiplies by
layers. Everything is per class of operators:

    gemm                                     dense products
    experts                                  a layer's routed experts (grouped products)
    attention_prefill, attention_decode      softmax attention, windows included
    mla_prefill, mla_decode                  latent attention, the kernel alone
    mla_prefill_block, mla_decode_block      the same with its projections
    sparse_prefill, sparse_decode            latent attention over picked tokens, whole blocks
    linear_prefill, linear_decode            gated delta rule, Kimi delta attention, Mamba2
    expert_dispatch, expert_combine          tokens to the experts' ranks, and back
    all_reduce, all_gather, reduce_scatter, all_to_all

How a time is found, nearest first: the table of this GPU, engine and dtype; another engine's on
this GPU; another dtype's; another GPU's, the same generation first. A table with a nearer shape
goes before one of a nearer engine or dtype (half an octave, and one octave).

What is carried over is the efficiency: seconds above the kernel launch, scaled by the ratio of the
two datasheet rooflines. Shapes between measured ones are averaged over the nearest in the same
way. Along the work axes (tokens, batch, context, bytes) times follow launch and roofline between
measured points and never fall. No time is below the roofline, taken at the bandwidth that the
table's largest calls reach: small microbenchmarks run from cache. At measured points a time is
exact within 0.07 %, except where it has to be moved for one of these two reasons; `docs/kernels.md`
says how many points those are.

Tables are built by `make kernels` and read on first use, one file per class and GPU.
"""

from shardwise.kernels.attention import attention_decode, attention_prefill
from shardwise.kernels.choice import typical_error
from shardwise.kernels.collectives import all_gather, all_reduce, all_to_all, reduce_scatter
from shardwise.kernels.exchange import expert_combine, expert_dispatch
from shardwise.kernels.experts import experts
from shardwise.kernels.gemm import gemm
from shardwise.kernels.linear import linear_decode, linear_prefill
from shardwise.kernels.mla import mla_decode, mla_decode_block, mla_prefill, mla_prefill_block
from shardwise.kernels.provenance import Provenance, Times
from shardwise.kernels.sparse import sparse_decode, sparse_prefill

__all__ = [
    "Provenance",
    "Times",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "attention_decode",
    "attention_prefill",
    "expert_combine",
    "expert_dispatch",
    "experts",
    "gemm",
    "linear_decode",
    "linear_prefill",
    "mla_decode",
    "mla_decode_block",
    "mla_prefill",
    "mla_prefill_block",
    "reduce_scatter",
    "sparse_decode",
    "sparse_prefill",
    "typical_error",
]
