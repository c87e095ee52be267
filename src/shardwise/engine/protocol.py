"""Requests and replies of the OpenAI API that the engine supports."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from shardwise.engine import parameters
from shardwise.engine.scheduler import SamplingParams
from shardwise.engine.tokenizer import AnyTokenizer
from shardwise.errors import InputError

MAX_SEED = 2**62
MAX_TOP_K = 2**31 - 1
MAX_TOKENS = 2**31 - 1


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """OpenAI's `stream_options`."""

    include_usage: bool | None = False
    include_obfuscation: bool | None = None  #: ignored: padding against traffic analysis


class Request(msgspec.Struct, kw_only=True):
    """Fields shared by completions and chat. Each may be null as in OpenAI's API.

    `parameters` handles all other fields.
    """

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def sampling(self, max_tokens: int) -> SamplingParams:
        """Raise InputError for an invalid value."""
        temperature = 1.0 if self.temperature is None else self.temperature
        top_p = 1.0 if self.top_p is None else self.top_p
        if not 0 <= temperature <= 100:
            raise InputError(f"temperature is {temperature:g}", "allowed: 0 (greedy) to 100")
        if not 0 < top_p <= 1:
            raise InputError(f"top_p is {top_p:g}", "allowed: above 0, to 1")
        if self.seed is not None and abs(self.seed) > MAX_SEED:
            raise InputError(f"seed is {self.seed}", f"allowed: {-MAX_SEED} to {MAX_SEED}")
        if self.top_k is not None and not -1 <= self.top_k <= MAX_TOP_K:
            raise InputError(
                f"top_k is {_shown(self.top_k)}", f"allowed: -1 or 0 (all) to {MAX_TOP_K}"
            )
        if max_tokens < 1 or max_tokens > MAX_TOKENS:
            raise InputError(f"max_tokens is {_shown(max_tokens)}", f"allowed: 1 to {MAX_TOKENS}")
        if self.stream_options and not self.stream:
            raise InputError("stream_options without stream", remedy="leave it out")
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=max(self.top_k or 0, 0),
            seed=self.seed,
            ignore_eos=bool(self.ignore_eos),
            stop_token_ids=tuple(self.stop_token_ids or ()),
        )

    @property
    def stop_strings(self) -> list[str]:
        """Return the non-empty stop strings."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [s for s in stop if s]


def _shown(value: int) -> str:
    """Format a number of any length. Python refuses to format more than 4,300 digits."""
    return str(value) if abs(value) < 10**18 else "too large"


class CompletionRequest(Request, kw_only=True):
    """POST /v1/completions. `prompt` is text or token ids, one prompt."""

    prompt: str | list[Any]

    def tokens(self, tokenizer: AnyTokenizer) -> list[int]:
        """Return the prompt as token ids. Raises InputError for more than one prompt."""
        prompt: Any = self.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
            prompt = prompt[0]
        if isinstance(prompt, str):
            return tokenizer.encode(prompt)
        if not all(isinstance(t, int) and not isinstance(t, bool) for t in prompt):
            raise InputError(
                "prompt is several prompts, or contains something other than token ids",
                "allowed: one text or one list of ids",
            )
        ids: list[int] = prompt
        return ids

    def limit(self, num_prompt: int, max_model_len: int) -> int:  # noqa: ARG002
        """Return the tokens to generate; OpenAI's default is 16."""
        return 16 if self.max_tokens is None else self.max_tokens


class ChatRequest(Request, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None

    def tokens(self, tokenizer: AnyTokenizer) -> list[int]:
        """Return the messages as token ids, using the chat template."""
        return tokenizer.encode_chat([m | {"content": _text(m)} for m in self.messages])

    def limit(self, num_prompt: int, max_model_len: int) -> int:
        """Return the tokens to generate; by default as many as fit."""
        given = self.max_completion_tokens
        given = self.max_tokens if given is None else given
        return max(max_model_len - num_prompt, 1) if given is None else given


def _text(message: dict[str, Any]) -> str:
    """Return a message's text from a string or from text parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts) or not parts:
        raise InputError("a message's content is not text", "allowed: a string, or text parts")
    return "".join(part["text"] for part in parts)


AnyRequest = CompletionRequest | ChatRequest


def parse(body: bytes, chat: bool) -> AnyRequest:
    """Parse the request in `body`. Raises InputError naming the invalid field."""
    kind: type[AnyRequest] = ChatRequest if chat else CompletionRequest
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        parameters.check(fields, kind.__struct_fields__)
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise InputError("the request is not valid: it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeError) as e:
        raise InputError(f"the request is not valid: {e}") from None


def check_length(num_prompt: int, max_model_len: int) -> None:
    """Raise InputError for a prompt that leaves no room for output."""
    if num_prompt >= max_model_len:
        raise InputError(
            f"a prompt of {num_prompt} tokens",
            f"allowed: prompt and output together at most {max_model_len} tokens",
        )


class StopWatcher:
    """Output text, cut at a stop string. Text that may begin a stop string is held back."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def add(self, text: str, last: bool) -> str:
        """Add `text`; return the text to send. `last`: no text follows."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        keep = 0
        if not last:
            keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return shown


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class Reply:
    """Builds the JSON reply to one request, complete or in chunks."""

    def __init__(self, request_id: str, model: str, chat: bool) -> None:
        self.chat = chat
        prefix = "chatcmpl" if chat else "cmpl"
        self._head = {"id": f"{prefix}-{request_id}", "created": int(time.time()), "model": model}

    def chunk(self, text: str, reason: str | None, first: bool) -> dict[str, Any]:
        """Return one streamed piece of the answer."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self.chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": text}
        else:
            choice["text"] = text
        return self._body("chat.completion.chunk" if self.chat else "text_completion", [choice])

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the last event of a stream, with token counts and no choices."""
        name = "chat.completion.chunk" if self.chat else "text_completion"
        return self._body(name, []) | {"usage": usage}

    def whole(self, text: str, reason: str, usage: dict[str, int]) -> dict[str, Any]:
        """Return the complete answer."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        name = "chat.completion" if self.chat else "text_completion"
        return self._body(name, [choice]) | {"usage": usage}

    def _body(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": name, "choices": choices}


def usage(num_prompt: int, num_output: int) -> dict[str, int]:
    """Return token counts in OpenAI's format."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
    }
