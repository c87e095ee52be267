"""Convert between text and token ids: tokenizer.json, a GGUF vocabulary, or plain ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from shardwise.engine import config as configs
from shardwise.errors import InputError

#: llama.cpp's name of a pre-tokenizer -> its split pattern (None: GPT-2's)
GGUF_PATTERNS = {
    "gpt-2": None,
    "smollm": None,
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
CONTROL_TOKEN = 3  #: GGUF token_type of control tokens such as <|im_start|>


class TextTokenizer:
    """A Hugging Face `tokenizers` tokenizer with its chat template."""

    def __init__(
        self, tokenizer: Tokenizer, template: str | None, special: Mapping[str, str]
    ) -> None:
        self._tokenizer, self._template, self._special = tokenizer, template, special

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, including special tokens."""
        return self._ids(text, special=True)

    def _ids(self, text: str, special: bool) -> list[int]:
        # `encode` of a single text holds the GIL: 5 s for 10 MB, in which no other thread runs
        (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=special)
        ids: list[int] = encoding.ids
        return ids

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """Return the conversation in the model's chat template, up to the start of the answer."""
        if self._template is None:
            raise InputError("this model has no chat template", remedy="use /v1/completions")
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            text = environment.from_string(self._template).render(
                messages=messages, add_generation_prompt=True, **self._special
            )
        except (TemplateError, TypeError, ValueError) as e:  # raised for unusual messages
            raise InputError(f"the chat template refuses the messages: {e}") from None
        return self._ids(text, special=False)

    def stream(self) -> TextStream:
        """New decoder for one output."""
        return TextStream(self._tokenizer)


class TextStream:
    """Decodes a growing list of tokens; returns text once its characters are complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = decoders.DecodeStream(skip_special_tokens=True)

    def add(self, token: int) -> str:
        """Return the text completed by `token`; empty within a character."""
        return self._stream.step(self._tokenizer, token) or ""


class IdTokenizer:
    """Tokenizer for a model without one: text consists of token ids, e.g. "17 4 291"."""

    def encode(self, text: str) -> list[int]:
        """Parse token ids written as numbers. Raises InputError for anything else."""
        try:
            return [int(word) for word in text.split()]
        except ValueError:
            raise InputError(
                "this model has no tokenizer, so a prompt is token ids",
                'allowed: "17 4 291" or [17, 4, 291]',
            ) from None

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """Return the token ids of all messages, one after another."""
        return [i for message in messages for i in self.encode(str(message.get("content", "")))]

    def stream(self) -> IdStream:
        """New decoder for one output."""
        return IdStream()


class IdStream:
    """Decodes each token to its id and a space."""

    def add(self, token: int) -> str:
        """Return the id as text."""
        return f"{token} "


AnyTokenizer = TextTokenizer | IdTokenizer


def load(path: Path) -> AnyTokenizer:
    """Load the tokenizer of the model at `path`. Raises InputError if it cannot be read."""
    if path.suffix == ".gguf":
        from shardwise.engine.checkpoint import GgufCheckpoint

        return from_gguf(GgufCheckpoint(path).fields, path)
    file = path / "tokenizer.json"
    if not file.exists():
        return IdTokenizer()
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as e:  # noqa: BLE001 - the binding raises Exception itself
        raise InputError(f"cannot read {file}: {e}", remedy="fetch the file again") from None
    settings = path / "tokenizer_config.json"
    fields = configs.read_json(settings) if settings.exists() else {}
    template = fields.get("chat_template")
    if (path / "chat_template.jinja").exists():
        template = (path / "chat_template.jinja").read_text()
    special = {name: _content(fields.get(name)) for name in ("bos_token", "eos_token")}
    return TextTokenizer(tokenizer, template if isinstance(template, str) else None, special)


def from_gguf(fields: Mapping[str, Any], path: Path) -> TextTokenizer:
    """Build the byte-level BPE tokenizer of a GGUF header."""
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in GGUF_PATTERNS:
        raise InputError(
            f"{path}: tokenizer {kind!r} with pre-tokenizer {pre!r}",
            f"allowed: 'gpt2' with {', '.join(GGUF_PATTERNS)}",
            "use the safetensors checkpoint",
        )
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    pattern = GGUF_PATTERNS[pre]
    first = (
        pre_tokenizers.Split(Regex(pattern), "isolated")
        if pattern
        else pre_tokenizers.Digits(individual_digits=pre == "smollm")
    )
    split = [first] if pattern or pre == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = fields.get("tokenizer.ggml.token_type", [])
    tokenizer.add_special_tokens(
        [token for token, kind in zip(tokens, types, strict=False) if kind == CONTROL_TOKEN]
    )
    special = {
        f"{name}_token": tokens[fields[f"tokenizer.ggml.{name}_token_id"]]
        for name in ("bos", "eos")
        if f"tokenizer.ggml.{name}_token_id" in fields
    }
    return TextTokenizer(tokenizer, fields.get("tokenizer.chat_template"), special)


def _content(token: Any) -> str:
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
