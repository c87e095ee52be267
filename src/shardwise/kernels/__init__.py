"""Kernel times from measured tables, for any GPU of the catalogue.

An operator takes sizes as numbers or arrays that broadcast, and returns `Times`: seconds per
element, a `Provenance` code per element, the distance in octaves to the nearest measurement, and
the table's name.

    from shardwise.hardware.catalogue import default_catalogue
    from shardwise.kernels import gemm

    times = gemm(default_catalogue().gpu("h200"), "vllm", "fp8", m=[1, 64, 4096], n=8192, k=8192)
    times.seconds      # array([2.2e-05, 2.5e-05, 4.5e-04])
    times.provenance   # array([0, 0, 0]): measured

`typical_error` returns the typical error of one provenance, for the width of intervals.

Sizes are those of one rank and one call: the caller divides by parallel sizes and multiplies by
layers. Classes of operators:

    gemm                                     dense GEMMs
    experts                                  a layer's routed experts (grouped GEMMs)
    attention_prefill, attention_decode      softmax attention, windows included
    mla_prefill, mla_decode                  latent attention, the kernel alone
    mla_prefill_block, mla_decode_block      the same with its projections
    sparse_prefill, sparse_decode            latent attention over selected tokens, whole blocks
    linear_prefill, linear_decode            gated delta rule, Kimi delta attention, Mamba2
    expert_dispatch, expert_combine          tokens to the experts' ranks, and back
    all_reduce, all_gather, reduce_scatter, all_to_all

Order of tables: this GPU, engine and dtype; another engine on this GPU; another dtype; another GPU,
preferably of the same generation. A table of another engine is preferred if its shapes are nearer
by more than half an octave, one of another dtype by more than one octave.

Efficiency is transferred, not time: seconds above the kernel launch are scaled by the ratio of the
two datasheet rooflines. Shapes between measured ones are averaged over the nearest ones in the same
way. Along the work axes (tokens, batch, context, bytes), times follow launch and roofline between
measured points and never decrease. No time is below the roofline at the bandwidth that the table's
largest calls reach, because small microbenchmarks run from cache. At measured points, times are
exact within 0.07 %, unless one of these two rules changes them; `docs/kernels.md` counts these
points.

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
