"""The OpenAI API's requests and replies, as far as the engine speaks it."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from shardwise.engine.scheduler import SamplingParams
from shardwise.engine.tokenizer import AnyTokenizer
from shardwise.errors import InputError

MAX_SEED = 2**62


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Request(msgspec.Struct, kw_only=True):
    """Fields that completions and chat share. Fields not named here are ignored, as vLLM does."""

    model: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = 1

    def sampling(self, max_tokens: int) -> SamplingParams:
        """Raises InputError for a value that means nothing."""
        temperature = 1.0 if self.temperature is None else self.temperature
        top_p = 1.0 if self.top_p is None else self.top_p
        if not 0 <= temperature <= 100:
            raise InputError(f"temperature is {temperature:g}", "allowed: 0 (greedy) to 100")
        if not 0 < top_p <= 1:
            raise InputError(f"top_p is {top_p:g}", "allowed: above 0, to 1")
        if self.seed is not None and abs(self.seed) > MAX_SEED:
            raise InputError(f"seed is {self.seed}", f"allowed: {-MAX_SEED} to {MAX_SEED}")
        if self.n not in (None, 1):
            raise InputError(f"n is {self.n}", "allowed: 1", "send the request again instead")
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=max(self.top_k or 0, 0),  # -1 also means all
            seed=self.seed,
            ignore_eos=self.ignore_eos,
            stop_token_ids=tuple(self.stop_token_ids or ()),
        )

    @property
    def stop_strings(self) -> list[str]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [s for s in stop if s]


class CompletionRequest(Request, kw_only=True):
    """POST /v1/completions. `prompt` is text or token ids, one prompt."""

    prompt: str | list[Any]
    logprobs: int | None = None
    echo: bool = False

    def tokens(self, tokenizer: AnyTokenizer) -> list[int]:
        if self.logprobs is not None or self.echo:
            raise InputError("logprobs and echo are not supported", remedy="leave them out")
        prompt: Any = self.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
            prompt = prompt[0]
        if isinstance(prompt, str):
            return tokenizer.encode(prompt)
        if not all(isinstance(t, int) and not isinstance(t, bool) for t in prompt):
            raise InputError("prompt is a list of several prompts", "allowed: one text or id list")
        ids: list[int] = prompt
        return ids

    def limit(self, num_prompt: int, max_model_len: int) -> int:  # noqa: ARG002
        """Tokens to generate; OpenAI's default is 16."""
        return 16 if self.max_tokens is None else self.max_tokens


class ChatRequest(Request, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None

    def tokens(self, tokenizer: AnyTokenizer) -> list[int]:
        if self.logprobs:
            raise InputError("logprobs are not supported", remedy="leave them out")
        return tokenizer.encode_chat([m | {"content": _text(m)} for m in self.messages])

    def limit(self, num_prompt: int, max_model_len: int) -> int:
        """Tokens to generate; by default as many as fit."""
        given = self.max_completion_tokens or self.max_tokens
        return max(max_model_len - num_prompt, 1) if given is None else given


def _text(message: dict[str, Any]) -> str:
    """A message's text, of a string or of text parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts) or not parts:
        raise InputError("a message's content is not text", "allowed: a string, or text parts")
    return "".join(part["text"] for part in parts)


AnyRequest = CompletionRequest | ChatRequest


def parse(body: bytes, chat: bool) -> AnyRequest:
    """The request in `body`. Raises InputError naming the field that is wrong."""
    kind: type[AnyRequest] = ChatRequest if chat else CompletionRequest
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InputError(f"the request is not valid: {e}") from None


class StopWatcher:
    """Text as it may be shown: cut at a stop string, holding back what could begin one."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def add(self, text: str, last: bool) -> str:
        """What may be shown after `text` came; `last`: nothing follows."""
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
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class Reply:
    """Builds the JSON of one request's reply, whole or in chunks."""

    def __init__(self, request_id: str, model: str, chat: bool) -> None:
        self.chat = chat
        prefix = "chatcmpl" if chat else "cmpl"
        self._head = {"id": f"{prefix}-{request_id}", "created": int(time.time()), "model": model}

    def chunk(self, text: str, reason: str | None, first: bool) -> dict[str, Any]:
        """One streamed piece of the answer."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self.chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": text}
        else:
            choice["text"] = text
        return self._body("chat.completion.chunk" if self.chat else "text_completion", [choice])

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        name = "chat.completion.chunk" if self.chat else "text_completion"
        return self._body(name, []) | {"usage": usage}

    def whole(self, text: str, reason: str, usage: dict[str, int]) -> dict[str, Any]:
        """The answer in one piece."""
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
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
    }
