"""Parse the events of one streamed answer, and check that it is complete."""

from __future__ import annotations

import math
from array import array
from typing import Any, Final

from shardwise.evidence.request import FailureKind, RequestRecord

#: maximum tokens of one request; a larger count is not a number of tokens
MOST_TOKENS: Final = 100_000_000


class Reply:
    """Parses events of completions or chat; stores tokens, finish and usage in `record`.

    An event with text counts as a token. Some tokens have no text (half a character, a special
    token). Their events count only if `usage` shows that every event was one token.
    """

    def __init__(self, record: RequestRecord, *, exact: bool = True) -> None:
        self.saw_done = False
        self.took_any = False  #: event
        self._exact = exact  #: whether fewer tokens than requested are a failure
        self._record = record
        self._finish_s = math.nan
        self._textless: array[float] = array("d")  #: times of events without text
        self._finish_is_textless = False

    def take(self, event: dict[str, Any], at_s: float) -> bool:
        """Record an event received at `at_s`; return False if it does not match the API."""
        self.took_any = True
        try:
            for choice in event.get("choices") or ():
                self._take_choice(choice, at_s)
            usage = event.get("usage")
            if usage:
                self._record.input_tokens = _count(usage.get("prompt_tokens"))
                self._record.output_tokens = _count(usage.get("completion_tokens"))
                self._record.usage_reported = True
        except (AttributeError, TypeError, ValueError, OverflowError):
            return False
        return True

    def _take_choice(self, choice: dict[str, Any], at_s: float) -> None:
        delta = choice.get("delta")
        text = choice.get("text") if delta is None else _said(delta)
        finish = choice.get("finish_reason")
        if text:
            self._record.arrivals.append(at_s)
        elif not finish and (delta is None or "role" not in delta):
            self._textless.append(at_s)
        if finish:
            self._finish_s = at_s
            self._finish_is_textless = not text

    def judge(self) -> tuple[FailureKind, str] | None:
        """Return why a cleanly ended stream is not a success; None if it is."""
        record = self._record
        if record.usage_reported:
            self._count_textless()
        else:
            record.output_tokens = len(record.arrivals)
        pieces = len(record.arrivals)
        record.last_s = record.arrivals[-1] if pieces else self._finish_s
        # The last token may have no text and arrive with the finish.
        if pieces < record.output_tokens and self._finish_s > record.last_s:
            record.last_s = self._finish_s
        if math.isnan(self._finish_s):
            return "missing_finish", "no finish_reason in the stream"
        if not self.saw_done:
            return "missing_done", "no [DONE] at the end of the stream"
        if not pieces:
            return "short", f"no text, though usage counts {record.output_tokens} tokens"
        if self._exact and record.output_tokens < record.output_asked:
            counted = "tokens" if record.usage_reported else "pieces of text (no usage was sent)"
            against = f", but {pieces} pieces of text came" if pieces > record.output_tokens else ""
            return "short", f"{record.output_tokens} {counted} of {record.output_asked}{against}"
        if not record.output_tokens:
            return "short", f"usage counts no token, but {pieces} pieces of text came"
        return None

    def _count_textless(self) -> None:
        """Count events without text as tokens if events and `usage` then agree."""
        record = self._record
        missing = record.output_tokens - len(record.arrivals)
        textless = list(self._textless)
        if self._finish_is_textless and missing == len(textless) + 1:
            textless.append(self._finish_s)
        if textless and missing == len(textless):
            record.arrivals = array("d", sorted([*record.arrivals, *textless]))


def _count(value: Any) -> int:
    """Return a number of tokens, 0 if missing. Raises ValueError for an impossible number."""
    number = int(value or 0)
    if not 0 <= number <= MOST_TOKENS:
        raise ValueError(number)
    return number


def _said(delta: dict[str, Any]) -> Any:
    """Return the text, reasoning or tool call of a chat delta; falsy if it has none."""
    found = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
    if found:
        return found
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        found = function.get("arguments") or function.get("name")
        if found:
            return found
    return delta.get("refusal")
