"""Read weights: each rank reads only its own shard of safetensors or GGUF files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from shardwise.engine import config as configs
from shardwise.engine.config import ModelConfig
from shardwise.engine.sharding import Shard, Weight, weights
from shardwise.errors import InputError


class Checkpoint(Protocol):
    """A source of weights."""

    config: ModelConfig

    def check(self) -> None:
        """Raise InputError if a tensor is missing, truncated or has another shape."""

    def read(self, shard: Shard) -> torch.Tensor:
        """Return the elements of `shard` on the CPU, in the stored dtype."""


def open_checkpoint(path: Path, random_weights: bool = False) -> Checkpoint:
    """Open the checkpoint at `path`: a directory with config.json, or a .gguf file."""
    if path.suffix == ".gguf":
        return GgufCheckpoint(path)
    config = configs.from_json(path / "config.json")
    return RandomCheckpoint(config) if random_weights else SafetensorsCheckpoint(path, config)


class SafetensorsCheckpoint:
    """Reads model.safetensors, or the files listed in model.safetensors.index.json."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        import safetensors

        self.config = config
        index = path / "model.safetensors.index.json"
        if index.exists():
            names = sorted(set(configs.read_json(index).get("weight_map", {}).values()))
        else:
            names = ["model.safetensors"]
        self._files: dict[str, Any] = {}
        for name in names:
            try:
                file = safetensors.safe_open(path / name, framework="pt")
            except (OSError, safetensors.SafetensorError) as e:
                raise InputError(
                    f"cannot read {path / name}: {e}",
                    remedy="download the file again, or use only config.json with --random-weights",
                ) from None
            self._files |= dict.fromkeys(file.keys(), file)
        self._path = path

    def check(self) -> None:
        """Raise InputError if a tensor is missing or has another shape."""
        for weight in weights(self.config):
            if weight.name not in self._files:
                raise InputError(f"{self._path} holds no tensor {weight.name}")
            shape = tuple(self._files[weight.name].get_slice(weight.name).get_shape())
            if shape != weight.shape:
                raise InputError(
                    f"{self._path}: {weight.name} is {shape}", f"config.json asks {weight.shape}"
                )

    def read(self, shard: Shard) -> torch.Tensor:
        """One shard of a tensor, in its stored dtype."""
        stored = self._files[shard.weight.name].get_slice(shard.weight.name)
        part = slice(shard.start, shard.stop)
        tensor: torch.Tensor = stored[:, part] if shard.weight.dim == 1 else stored[part]
        return tensor


class RandomCheckpoint:
    """Weights drawn at random, the same for every tp_size: for timing a config without weights."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    def check(self) -> None:
        """No-op."""

    def read(self, shard: Shard) -> torch.Tensor:
        """Uniform in +-sqrt(3 / columns), so that activations keep their variance; norms are 1."""
        shape = shard.weight.shape
        if len(shape) == 1:
            full = torch.ones(shape) if "norm" in shard.weight.name else torch.zeros(shape)
        else:
            seed = torch.Generator().manual_seed(zlib.crc32(shard.weight.name.encode()))
            full = torch.empty(shape, dtype=torch.float32).uniform_(-1, 1, generator=seed)
            full *= (3.0 / shape[1]) ** 0.5
        return full.narrow(shard.weight.dim, shard.start, shard.stop - shard.start).clone()


class GgufCheckpoint:
    """A GGUF file; quantized blocks are dequantized to fp32, only those of the shard."""

    def __init__(self, path: Path) -> None:
        import gguf

        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError) as e:
            raise InputError(f"cannot read {path}: {e}", remedy="fetch the file again") from None
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self._tensors = {t.name: t for t in reader.tensors}
        self._path = path
        tied = "output.weight" not in self._tensors
        self.config = configs.from_gguf(self.fields, path, tied)

    def check(self) -> None:
        """Raise InputError if a tensor is missing or has another shape."""
        for weight in weights(self.config):
            name = gguf_name(weight)
            if name not in self._tensors:
                raise InputError(f"{self._path} holds no tensor {name}")
            shape = tuple(int(n) for n in reversed(self._tensors[name].shape))
            if shape != weight.shape:
                raise InputError(f"{self._path}: {name} is {shape}", f"expected: {weight.shape}")

    def read(self, shard: Shard) -> torch.Tensor:
        """One shard of a tensor, dequantized."""
        from gguf import GGML_QUANT_SIZES, dequantize

        stored = self._tensors[gguf_name(shard.weight)]
        data, start, stop = stored.data, shard.start, shard.stop
        if shard.weight.dim == 0:
            values = dequantize(data[start:stop], stored.tensor_type)
        else:
            block, block_bytes = GGML_QUANT_SIZES[stored.tensor_type]
            first, last = start // block, -(-stop // block)
            raw = data.view(np.uint8)[:, first * block_bytes : last * block_bytes]
            if data.dtype != np.uint8:
                raw = raw.view(data.dtype)
            values = dequantize(np.ascontiguousarray(raw), stored.tensor_type)
            values = values[:, start - first * block : stop - first * block]
        if self.config.interleaved_rope and shard.weight.name.endswith(
            ("q_proj.weight", "k_proj.weight")
        ):
            values = _halves_from_pairs(values, self.config.head_dim)
        return torch.from_numpy(np.array(values, dtype=np.float32))


def _halves_from_pairs(rows: np.ndarray[Any, Any], head_dim: int) -> np.ndarray[Any, Any]:
    """llama.cpp rotates pairs (0, 1), (2, 3) …; Hugging Face pairs i with i + head_dim / 2."""
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


_GGUF_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
}


def gguf_name(weight: Weight) -> str:
    """llama.cpp's name: blk.3.attn_q.weight for model.layers.3.self_attn.q_proj.weight."""
    if weight.name == "lm_head.weight":
        return "output.weight"
    body, kind = weight.name.removeprefix("model.").rsplit(".", 1)
    if not body.startswith("layers."):
        return f"{_GGUF_PARTS[body]}.{kind}"
    _, layer, part = body.split(".", 2)
    return f"blk.{layer}.{_GGUF_PARTS[part]}.{kind}"
