"""Model FLOPs utilization (MFU) of a deployment."""

from __future__ import annotations

from shardwise.evidence.record import Evidence
from shardwise.layout.arrays import Layouts
from shardwise.perfmodel.estimate import Subject


def tokens_per_step(evidence: Evidence) -> int:
    """Return the prompt and output tokens that a replica computes between two tokens of one
    request."""
    load = evidence.workload
    computed = 1.0 - load.cached_tokens / (load.isl + load.osl)
    each = computed * evidence.metrics["total_tok_s"].value * evidence.metrics["tpot_s"].value
    return max(1, round(each))


def matrix_share(subject: Subject, evidence: Evidence) -> float:
    """Return the used share of one GPU's dense matrix rate: sum of 2 m n k over a step's GEMMs /
    (step time x datasheet rate x pp_size), that is, the model FLOPs utilization of Chowdhery et
    al., "PaLM", arXiv:2204.02311, appendix B, without the attention scores. lm_head counts for
    every token, so the share is slightly high for long prompts.
    """
    deployment = evidence.deployment
    step_s = evidence.metrics["tpot_s"].value
    setting = subject.setting
    work = setting.work(Layouts.of([deployment.layout]))
    tokens = tokens_per_step(evidence)
    # time of each format at the GPU's full rate
    full_s = sum(
        float(s.flops_per_token[0])
        * tokens
        / setting.gpu.matrix_rate(setting.compute_dtype(s.format))
        for s in work.streams
    )
    return full_s / (step_s * deployment.layout.pp_size)
