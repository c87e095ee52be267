"""Speculative decoding: drafted tokens that the model verifies in one step."""

from __future__ import annotations

from typing import Final

import msgspec

from shardwise.errors import InputError

MTP: Final = "mtp"  #: the model's own multi-token prediction heads draft
MOST_DRAFTED: Final = 16
#: Tokens drafted a step where nobody says: what InferenceX's DeepSeek-R1 recipes have
#: (benchmarks/dsr1_fp8_b200_trt_mtp.sh) and where NVIDIA found the optimum for one stream.
USUAL_DRAFTED: Final = 3


class Acceptance(msgspec.Struct, frozen=True):
    """Share of the drafted tokens that are accepted, with the range that it is believed in.

    Engines log it: vLLM as "Avg Draft acceptance rate", SGLang as `accept rate`.
    """

    value: float
    lo: float
    hi: float

    def __post_init__(self) -> None:
        for share in (self.value, self.lo, self.hi):
            if not 0.0 <= share <= 1.0:
                raise InputError(f"acceptance is {share:g}", "allowed: 0 to 1")


#: Mean tokens of a step with 1 to 5 drafted by DeepSeek-R1's MTP head on B200, strict acceptance:
#: github.com/NVIDIA/TensorRT-LLM, docs/source/blogs/tech_blog/blog1_Pushing_Latency_Boundaries...
_MTP_TOKENS: Final = (1.92, 2.58, 2.82, 2.99, 3.01)
#: Probability that one more token of a small draft model is accepted: T5-XXL by T5-small, 0.53 to
#: 0.75 by task and temperature (Leviathan et al. 2023, arXiv:2211.17192, table 2).
_DRAFT_MODEL: Final = (0.64, 0.53, 0.75)


#: Of the tokens beyond one that NVIDIA found: InferenceX's twins of DeepSeek-R1 on B200, served
#: with and without MTP (serving_2026.csv, `calibrate`), have 0.54 with SGLang and 2 drafted, and
#: 0.84 with TensorRT-LLM and 3, both on random prompts (docs/howto/speculation.md).
_MTP_SHARE: Final = (0.8, 0.5, 1.0)


def usual_acceptance(draft: str, tokens: int) -> Acceptance:
    """What is assumed of a draft of `tokens` tokens where nobody measured it."""
    if draft != MTP:
        return Acceptance(*(chain(each, tokens) for each in _DRAFT_MODEL))
    beyond = _MTP_TOKENS[min(tokens, len(_MTP_TOKENS)) - 1] - 1.0
    return Acceptance(*(share * beyond / tokens for share in _MTP_SHARE))


def chain(each: float, drafted: int) -> float:
    """Share of `drafted` tokens that are accepted where each is with probability `each` once all
    before it were (Leviathan et al. 2023, equation 1)."""
    return sum(each**place for place in range(1, drafted + 1)) / drafted


class Speculation(msgspec.Struct, frozen=True):
    """Tokens that are drafted and verified in each decode step.

    Attributes:
        draft: Who drafts: "mtp", or the name of a draft model.
        tokens: Drafted for each sequence in a step.
        acceptance: Share of them that is accepted.
    """

    draft: str
    tokens: int
    acceptance: Acceptance

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= MOST_DRAFTED:
            raise InputError(f"{self.tokens} drafted tokens", f"allowed: 1 to {MOST_DRAFTED}")

    @classmethod
    def parse(cls, text: str, acceptance: float | None = None) -> Speculation | None:
        """What `--speculation` means: "none", "mtp", "mtp:3" or "DRAFT-MODEL:4".

        Args:
            text: Who drafts, and how many tokens a step.
            acceptance: Share of drafted tokens that was accepted; None: a usual one.

        Raises:
            InputError: No such form or number, or an acceptance without speculation.
        """
        if text in ("", "none"):
            if acceptance is not None:
                raise InputError(
                    f"acceptance {acceptance:g} without speculation",
                    remedy="add --speculation mtp:3, or a draft model",
                )
            return None
        draft, colon, count = text.rpartition(":")
        if not colon:
            draft, count = text, str(USUAL_DRAFTED)
        if not draft or not (count.isascii() and count.isdecimal() and len(count) < 4):
            raise InputError(
                f"speculation {text[:60]!r}", "allowed: none, mtp:3, or a draft model as in NAME:4"
            )
        tokens = int(count)
        if acceptance is None:
            cls(draft, tokens, Acceptance(0.0, 0.0, 0.0))  # a count out of range is refused first
            return cls(draft, tokens, usual_acceptance(draft, tokens))
        return cls(draft, tokens, Acceptance(acceptance, acceptance, acceptance))

    @property
    def own_heads(self) -> bool:
        """Whether the model's own heads draft, rather than a draft model."""
        return self.draft == MTP

    @property
    def name(self) -> str:
        """As `--speculation` takes it: "mtp:3"."""
        return f"{self.draft}:{self.tokens}"

    @property
    def options(self) -> list[str]:
        """The command line options that mean it."""
        share = self.acceptance
        given = ["--acceptance", f"{share.value:g}"] if share.lo == share.hi else []
        return ["--speculation", self.name, *given]

    @property
    def words(self) -> str:
        """In a sentence: who drafts, how many tokens, and how many are accepted."""
        share = self.acceptance
        known = f"{share.value:.2g}"
        if share.lo < share.hi:
            known = f"assumed {known} ({share.lo:.2g} to {share.hi:.2g})"
        return f"speculation {self.name}, acceptance {known}"

    def tokens_per_step(self, acceptance: float | None = None) -> float:
        """Mean tokens that a step gives a sequence: those accepted and the model's own next."""
        share = self.acceptance.value if acceptance is None else acceptance
        return 1.0 + share * self.tokens
