"""Kernel times from measured tables, for any GPU of the catalogue.

An operator is called with sizes as numbers or arrays that broadcast, and answers with `Times`:
seconds per element, a `Provenance` code per element, the distance in octaves to the nearest
measurement, and the table's name.

    from shardwise.hardware.catalogue import default_catalogue
    from shardwise.kernels import gemm

    times = gemm(default_catalogue().gpu("h200"), "vllm", "fp8", m=[1, 64, 4096], n=8192, k=8192)
    times.seconds      # array([2.2e-05, 2.5e-05, 4.5e-04])
    times.provenance   # array([0, 0, 0]): measured

Sizes are those of one rank and one call: the caller divides by parallel sizes and multiplies by
layers. Everything is per class of operators:

    gemm                                     dense products
    experts                                  a layer's routed experts (grouped products)
    attention_prefill, attention_decode      softmax attention, windows included
    all_reduce, all_gather, reduce_scatter, all_to_all

How a time is found, nearest first: the table of this GPU, engine and dtype; another engine's on
this GPU; another dtype's; another GPU's, the same generation first. What is carried over is the
efficiency: seconds above the kernel launch, scaled by the ratio of the two datasheet rooflines.
Shapes between measured ones are averaged over the nearest in the same way. Along the work axes
(tokens, batch, context, bytes) times are interpolated in log-log and never fall. No time is below
the roofline, taken at the bandwidth that the table's largest calls reach: small microbenchmarks
run from cache. At measured points a time is exact within 0.07 %, except where it has to be moved
for one of these two reasons; `docs/kernels.md` says how many points those are.

Tables are built by `make kernels` and read on first use, one file per class and GPU.
"""

from shardwise.kernels.attention import attention_decode, attention_prefill
from shardwise.kernels.collectives import all_gather, all_reduce, all_to_all, reduce_scatter
from shardwise.kernels.experts import experts
from shardwise.kernels.gemm import gemm
from shardwise.kernels.provenance import Provenance, Times

__all__ = [
    "Provenance",
    "Times",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "attention_decode",
    "attention_prefill",
    "experts",
    "gemm",
    "reduce_scatter",
]
