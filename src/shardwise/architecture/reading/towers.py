"""Number of weights of vision and audio towers, projectors included.

vLLM and SGLang load towers with the text model, in the checkpoint's plain dtype. Sizes come from
vision_config and audio_config. Towers of the types in `_EXACT` are counted as transformers builds
them. Others are counted as a plain transformer of their sizes, without positions, projectors and
other small parts (a few percent of the tower).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from shardwise.architecture.fields import Fields
from shardwise.architecture.formats import Format
from shardwise.architecture.model import Tower
from shardwise.errors import InputError

#: Towers that a file names instead of describing. Counts: the models of those names on the hub.
_NAMED: Final = {
    # DeepSeek-OCR: SAM-B's encoder (89,670,912) and two convolutions, and CLIP-L
    "deeplip_b_l": 398_746_880,
    "siglip_so400m_patch14_384": 428_225_600,
    "siglip_large_patch16_384": 316_283_904,
    "siglip2_so400m_patch14_384": 428_225_600,
    "clip_vit_large_patch14_336": 304_293_888,
    "clip_vit_large_patch14": 303_966_208,
}
_VISION: Final = (
    *("vision_config", "vision_tower_config", "vision_tower_cfg", "visual_config"),
    *("vit_config", "visual"),
    "img_processor",
)
_AUDIO: Final = ("audio_config", "speech_config", "sound_config", "audio_encoder_config")


def towers(config: Fields, hidden: int, plain: Format) -> tuple[Tower, ...]:
    """Return the towers of the whole file `config`, for a text model of hidden size `hidden`."""
    found = []
    wrapper = config.text("model_type", "")
    for name, fields, count in (("vision", _VISION, _vision), ("audio", _AUDIO, _audio)):
        part = _part(config, fields)
        if part is not None and part.values:
            # a tower without its own type has that of its wrapper
            part = Fields({"model_type": wrapper, **part.values}, part.where)
            parameters = count(part, hidden)
            parameters += _pixel_shuffled(config, part, hidden) if name == "vision" else 0
            found.append(Tower(name, parameters, parameters * plain.bits / 8))
    named = config.values.get("mm_vision_tower")
    if isinstance(named, str) and not found:
        parameters = _by_name(config, named) + _two_linears(1024, hidden, hidden)
        found.append(Tower("vision", parameters, parameters * plain.bits / 8))
    return tuple(found)


def _part(config: Fields, names: tuple[str, ...]) -> Fields | None:
    """Return the tower's fields, from the file or its thinker_config (Omni models)."""
    for where in (config, *(config.object(n) for n in ("thinker_config",) if config.has(n))):
        for name in names:
            if isinstance(where.values.get(name), dict):
                return where.object(name)
    return None


def _vision(part: Fields, hidden: int) -> int:
    kind = part.text("model_type", "")
    # transformers 5 calls the tower of qwen3_vl qwen3_vl_vision
    exact = _EXACT.get(kind) or _EXACT.get(kind.removesuffix("_vision"))
    if exact:
        return exact(part, hidden)
    if "vt_num_hidden_layers" in part.values:
        return _moonvit(part, hidden)
    name = part.values.get("model_name") or part.object("params").values.get("model_name")
    if isinstance(name, str):
        return _by_name(part, name)
    return _plain_or_several(part) + _projector(part, hidden)


#: Names of a tower's width; of its layers.
_WIDTHS: Final = ("hidden_size", "width", "embed_dim", "d_model", "dim")
_DEPTHS: Final = (
    "num_hidden_layers",
    "depth",
    "layers",
    "encoder_layers",
    "num_layers",
    "n_layers",
)


def _plain_or_several(part: Fields) -> int:
    """A plain transformer, or the sum of several (two encoders in DeepSeek-OCR)."""
    if _is_transformer(part.values):
        return _plain(part)
    inner = [
        Fields(below, f"{part.where}: {name[:60]}")
        for name, value in part.values.items()
        if isinstance(value, dict)
        for below in (value, *(v for v in value.values() if isinstance(v, dict)))
        if _is_transformer(below)
    ]
    return sum(_plain(one) for one in inner) if inner else _plain(part)


def _is_transformer(values: Mapping[str, Any]) -> bool:
    return all(
        any(isinstance(values.get(name), int) for name in names) for names in (_WIDTHS, _DEPTHS)
    )


def _projector(part: Fields, hidden: int) -> int:
    """Two linear layers after merged patches, if the file states how many are merged."""
    merged = part.size("spatial_merge_size", default=0, lo=0, hi=100) ** 2
    if not merged or not any(name in part.values for name in _WIDTHS):
        return 0
    inner = merged * part.size(part.name_of(*_WIDTHS))
    return _two_linears(inner, inner, part.size("out_hidden_size", default=hidden))


def _by_name(part: Fields, name: str) -> int:
    known = name.rpartition("/")[2].lower().replace("-", "_")
    if known not in _NAMED:
        raise InputError(
            f"{part.where}: the vision tower {name[:60]!r} is not known",
            f"known by name: {', '.join(_NAMED)}",
        )
    return _NAMED[known]


def _layer(width: int, inner: int, *, gated: bool = False, bias: bool = True) -> int:
    """Attention and MLP of a tower's layer, with two norms."""
    matrices = 3 if gated else 2
    count = 4 * width**2 + matrices * width * inner + 2 * width
    if bias:
        count += 4 * width + (matrices - 1) * inner + width + 2 * width
    return count


def _two_linears(first: int, inner: int, last: int) -> int:
    return first * inner + inner + inner * last + last


def _plain(part: Fields) -> int:
    """A transformer of the given sizes, under any of their usual names."""
    width = part.size(part.name_of(*_WIDTHS))
    depth = part.size(part.name_of(*_DEPTHS), hi=1_000)
    field = part.name_of("intermediate_size", "mlp_dim", "encoder_ffn_dim", "ffn_dim")
    ratio = part.number("mlp_ratio", 4.0)
    inner = part.size(field, default=round(width * ratio))
    patch = part.get("patch_size")
    side = patch if isinstance(patch, int) and 0 < patch < 1000 else 14
    return depth * _layer(width, inner) + 3 * side**2 * width


def _pixel_shuffled(config: Fields, part: Fields, hidden: int) -> int:
    """The projector of Cohere's and Aya's vision models, after four merged patches."""
    inner = config.size("alignment_intermediate_size", default=0, lo=0)
    if not inner or "hidden_size" not in part.values:
        return 0
    merged = 4 * part.size("hidden_size")
    return merged * inner + inner + inner // 2 * hidden + hidden


def _clip(part: Fields, hidden: int) -> int:
    """CLIP: a class token, norms before and after; then LLaVA's two linear layers."""
    width, depth, inner, patch, side = _vit(part, 1024, 24, 4096, 14, 336)
    positions = (side // patch) ** 2 + 1
    return (
        depth * _layer(width, inner)
        + 3 * patch**2 * width
        + (positions + 1) * width
        + 4 * width
        + _two_linears(width, hidden, hidden)
    )


def _vit(
    part: Fields, width: int, depth: int, inner: int, patch: int, side: int
) -> tuple[int, int, int, int, int]:
    """Return (width, layers, MLP width, patch, image side), with the class's defaults."""
    return (
        part.size("hidden_size", default=width),
        part.size("num_hidden_layers", default=depth, hi=1_000),
        part.size("intermediate_size", default=inner),
        part.size("patch_size", default=patch, hi=1_000),
        part.size("image_size", default=side),
    )


def _siglip(part: Fields, hidden: int) -> int:
    """SigLIP as in Gemma 3: then one matrix and a norm."""
    width, depth, inner, patch, side = _vit(part, 768, 12, 3072, 16, 224)
    positions = (side // patch) ** 2
    count = depth * _layer(width, inner) + 3 * patch**2 * width + width
    count += positions * width + 2 * width
    if part.flag("vision_use_head", False):  # pooling by attention: a layer and a query
        count += _layer(width, inner) - 2 * width + width
    return count + width * hidden + width


def _internvl(part: Fields, hidden: int) -> int:
    """InternViT: a class token, scales of residuals, two linear layers after merged patches."""
    width, depth = (
        part.size("hidden_size", default=1024),
        part.size("num_hidden_layers", default=24, hi=1_000),
    )
    inner = part.size("intermediate_size", default=4 * width)
    patch, side = _first(part, "patch_size", 14), _first(part, "image_size", 448)
    positions = (side // patch) ** 2 + 1
    count = depth * (_layer(width, inner) + 2 * width) + 3 * patch**2 * width + width
    merged = 4 * width
    return count + (positions + 1) * width + 2 * merged + _two_linears(merged, hidden, hidden)


def _first(part: Fields, name: str, default: int) -> int:
    value = part.get(name)
    if isinstance(value, list):
        return part.per_layer(name, len(value))[0] if value else default
    return part.size(name, default=default)


def _kimi_k25(part: Fields, hidden: int) -> int:
    """MoonViT under transformers' names."""
    width, depth = (
        part.size("hidden_size", default=1152),
        part.size("num_hidden_layers", default=27, hi=1_000),
    )
    inner, patch = part.size("intermediate_size", default=4304), part.size("patch_size", default=14)
    rows = part.size("pos_emb_height", default=64) * part.size("pos_emb_width", default=64)
    merged = 4 * width
    count = depth * _layer(width, inner) + 3 * patch**2 * width + width + rows * width + 2 * width
    return count + 2 * width + _two_linears(merged, merged, hidden)


def _mel_codes(part: Fields, hidden: int) -> int:
    """Inkling's audio encoder: an embedding of a code per mel bin."""
    bins, codes = part.size("n_mel_bins", default=80), part.size("mel_vocab_size", default=256)
    return (bins * codes + 1) * part.size("text_hidden_size", default=hidden)


def _convolutional_audio(part: Fields, hidden: int) -> int:
    """Muse Spark's audio encoder: blocks of a depthwise convolution and an MLP at each scale."""
    widths, depths = part.items("hidden_sizes", int), part.items("depths", int)
    patches = part.items("patch_sizes", int)
    ratio = part.number("mlp_ratio", 4.0)
    kernel = part.size("conv_kernel_size", default=7)
    count, before = 0, 1
    for width, depth, patch in zip(widths, depths, patches, strict=False):
        block = kernel * width + 2 * round(width * width * ratio) + round(width * (ratio + 4))
        count += before * patch * width + width + depth * block
        before = width
    return count + before * part.size("out_hidden_size", default=hidden)


def _pixtral(part: Fields, hidden: int) -> int:
    """Pixtral: gated, without biases; Mistral 3's patch merger and two linear layers."""
    width, depth, inner, patch, _ = _vit(part, 1024, 24, 4096, 16, 1024)
    count = depth * _layer(width, inner, gated=True, bias=False)
    count += 3 * patch**2 * width + width
    return count + width + 4 * width * width + width * hidden + hidden * hidden


def _llama4(part: Fields, hidden: int) -> int:
    width, depth, inner, patch, side = _vit(part, 768, 34, 5632, 14, 448)
    output = part.size("vision_output_dim", default=4096)
    positions = (side // patch) ** 2 + 1
    count = depth * _layer(width, inner) + 3 * patch**2 * width
    count += (positions + 1) * width + 4 * width
    first = part.size("projector_input_dim", default=4096)
    last = part.size("projector_output_dim", default=4096)
    return count + inner * first + last * last + output * hidden


def _mllama(part: Fields, hidden: int) -> int:
    """Llama 3.2 Vision: local and global layers, embeddings of tiles, one projection."""
    width, _, inner, patch, side = _vit(part, 1280, 32, 5120, 14, 448)
    local = part.size("num_hidden_layers", default=32, hi=1_000)
    depth = local + part.size("num_global_layers", default=8, hi=1_000)
    tiles = part.size("max_num_tiles", default=4, hi=1_000)
    ratios = len(part.items("supported_aspect_ratios", list)) or 8
    positions = (side // patch) ** 2 + 1
    layer = 4 * width**2 + 2 * width * inner + width + inner + 4 * width
    count = depth * layer + 3 * patch**2 * width + (positions + 1) * width
    count += (ratios + 1) * tiles * (positions + 2) * width
    output = part.size("vision_output_dim", default=7680)
    return count + output * hidden + hidden


def _gemma4(part: Fields, hidden: int) -> int:
    """Gemma 4: gated MLPs, a table of positions per axis, then one matrix."""
    width = part.size("hidden_size", default=768)
    depth = part.size("num_hidden_layers", default=16, hi=1_000)
    inner = part.size("intermediate_size", default=3072)
    positions = part.size("position_embedding_size", default=10240)
    patch = part.size("patch_size", default=16, hi=1_000)
    count = depth * (_layer(width, inner, gated=True, bias=False) + 2 * width)
    return count + 2 * positions * width + 3 * patch**2 * width + width * hidden


def _gemma3n(part: Fields, hidden: int) -> int:
    """Gemma 3n: MobileNet-V5, which has 300 million weights according to its name."""
    return 300_000_000 + part.size("hidden_size", default=2048) * hidden


def _perception(part: Fields, hidden: int) -> int:
    """Step 3.7's encoder, then two strided convolutions and a projection."""
    width = part.size(part.name_of("width", "hidden_size"), default=1536)
    depth = part.size(part.name_of("layers", "num_hidden_layers"), default=47, hi=1_000)
    patch = part.size("patch_size", default=14, hi=1_000)
    positions = (part.size("image_size", default=728) // patch) ** 2
    inner = round(width * part.number("mlp_ratio", 8960 / 1536))
    count = depth * (_layer(width, inner) + 2 * width) + 3 * patch**2 * width
    count += positions * width + 2 * width
    return count + 9 * (2 * width * width + 8 * width * width) + 4 * width * hidden


def _glm4v(part: Fields, hidden: int) -> int:
    """GLM-4V: MLPs of the output's width, a strided convolution and a gated merger."""
    width = part.size("hidden_size", default=1536)
    depth = part.size("depth", default=24, hi=1_000)
    output = part.size("out_hidden_size", default=hidden)
    merger = part.size("intermediate_size", default=13696)
    layer = _layer(width, output, gated=True, bias=False)
    merge = part.size("spatial_merge_size", default=2) ** 2 * width
    return (
        depth * layer + _patches(part, width, bias=True) + merge * output
        + output * output + 3 * output * merger
    )  # fmt: skip


def _qwen2_vl(part: Fields, hidden: int) -> int:
    width, depth = part.size("embed_dim", default=1280), part.size("depth", default=32, hi=1_000)
    inner = round(width * part.number("mlp_ratio", 4.0))
    merge = part.size("spatial_merge_size", default=2) ** 2 * width
    output = part.size("hidden_size", default=hidden)
    count = depth * _layer(width, inner) + _patches(part, width, bias=False)
    return count + 2 * width + _two_linears(merge, merge, output)


def _qwen2_5_vl(part: Fields, hidden: int) -> int:
    width = part.size("hidden_size", default=1280)
    depth = part.size("depth", default=32, hi=1_000)
    inner = part.size("intermediate_size", default=3420)
    merge = part.size("spatial_merge_size", default=2) ** 2 * width
    output = part.size("out_hidden_size", default=hidden)
    # biases on all matrices, but not on norms
    layer = _layer(width, inner, gated=True) - 2 * width
    count = depth * layer + _patches(part, width, bias=False)
    return count + width + _two_linears(merge, merge, output)


def _qwen3_vl(part: Fields, hidden: int) -> int:
    width = part.size("hidden_size", default=1152)
    depth = part.size("depth", default=27, hi=1_000)
    inner = part.size("intermediate_size", default=4304)
    merge = part.size("spatial_merge_size", default=2) ** 2 * width
    output = part.size("out_hidden_size", default=hidden)
    positions = part.size("num_position_embeddings", default=2304)
    listed = part.get("deepstack_visual_indexes")
    # default of transformers: three layers feed the text model directly
    deep = 3 if listed is None and part.text("model_type", "").startswith("qwen3_vl") else 0
    deep = len(listed) if isinstance(listed, list) else deep
    mergers = _two_linears(merge, merge, output)
    count = depth * _layer(width, inner) + _patches(part, width, bias=True) + positions * width
    return count + 2 * width + mergers + deep * (2 * merge + mergers)


def _patches(part: Fields, width: int, *, bias: bool) -> int:
    patch = part.size(part.name_of("patch_size", "spatial_patch_size"), default=14, hi=1_000)
    frames = part.size("temporal_patch_size", default=2, hi=1_000)
    channels = part.size(part.name_of("in_channels", "in_chans"), default=3, hi=1_000)
    return channels * frames * patch**2 * width + (width if bias else 0)


def _moonvit(part: Fields, hidden: int) -> int:
    """Kimi's MoonViT under its own field names, with its projector."""
    width, depth = part.size("vt_hidden_size"), part.size("vt_num_hidden_layers", hi=1_000)
    inner, patch = part.size("vt_intermediate_size"), part.size("patch_size", default=14, hi=1_000)
    rows = part.size("init_pos_emb_height", default=64)
    columns = part.size("init_pos_emb_width", default=64)
    merge = 4 * width
    output = part.size("text_hidden_size", default=hidden)
    if part.has("qkv_hidden_size"):  # K3: attention of its own width, no biases
        inside = part.size("qkv_hidden_size")
        layer = 4 * width * inside + 2 * width * inner + 2 * width
        count = depth * layer + 3 * patch**2 * width + rows * columns * width + width
        return count + merge * merge + merge * output + output
    count = depth * _layer(width, inner) + 3 * patch**2 * width + width
    count += rows * columns * width + 2 * width
    return count + 2 * width + _two_linears(merge, merge, output)


_AUDIO_WIDTHS: Final = ("hidden_size", "d_model", "encoder_dim", "hidden_dim")


def _audio(part: Fields, hidden: int) -> int:
    """Encoders similar to Whisper's; conformers have a second MLP and a convolution."""
    exact = _EXACT_AUDIO.get(part.text("model_type", ""))
    if exact:
        return exact(part, hidden)
    inner_config = part.values.get("encoder_config")
    if not any(name in part.values for name in _AUDIO_WIDTHS) and isinstance(inner_config, dict):
        return _audio(part.object("encoder_config"), hidden)
    width = part.size(part.name_of(*_AUDIO_WIDTHS))
    names = ("num_hidden_layers", "encoder_layers", "conf_num_hidden_layers", "num_blocks",
             "num_layers")  # fmt: skip
    depth = part.size(part.name_of(*names), default=12, hi=1_000)
    inner = part.size(part.name_of("encoder_ffn_dim", "intermediate_size"), default=4 * width)
    conformer = part.has("conf_num_hidden_layers") or part.has("conv_kernel_size")
    layer = _layer(width, inner)
    if conformer:
        layer += 2 * width * inner + 3 * width**2
    return depth * layer + width * hidden


def _gemma_audio(part: Fields, hidden: int) -> int:
    """Conformers of Gemma 3n and 4: two MLPs, attention with relative positions, a convolution."""
    width = part.size("hidden_size", default=1024)
    depth = part.size(
        part.name_of("num_hidden_layers", "conf_num_hidden_layers"), default=12, hi=1_000
    )
    kernel = part.size(part.name_of("conv_kernel_size", "conf_conv_kernel_size"), default=5)
    layer = 24 * width**2 + (kernel + 9) * width
    # behind two convolutions, 32 channels of 32 frequencies
    start = 32 * 32 * width + 9 * 128 * 33
    usual = 1536 if part.text("model_type", "") == "gemma4_audio" else width
    output = part.size("output_proj_dims", default=usual)
    projected = output * (width + 1) if output != width else 0
    return depth * layer + start + projected + output * hidden


_EXACT_AUDIO: Final[dict[str, Callable[[Fields, int], int]]] = {
    "inkling_audio": _mel_codes,
    "muse_spark_audio": _convolutional_audio,
    "gemma3n_audio": _gemma_audio,
    "gemma4_audio": _gemma_audio,
}
_EXACT: Final[dict[str, Callable[[Fields, int], int]]] = {
    "clip_vision_model": _clip,
    "siglip_vision_model": _siglip,
    "pixtral": _pixtral,
    "llama4_vision_model": _llama4,
    "gemma3n_vision": _gemma3n,
    "gemma4_vision": _gemma4,
    "mllama_vision_model": _mllama,
    "perception_encoder": _perception,
    "step3p5_vision": _perception,
    "glm4v": _glm4v,
    "glm4v_vision": _glm4v,
    "glm4v_moe": _glm4v,
    "glm4v_moe_vision": _glm4v,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen2_5_omni_vision_encoder": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl,
    "qwen3_omni_moe_vision_encoder": _qwen3_vl,
    "qwen3_5": _qwen3_vl,
    "qwen3_5_moe": _qwen3_vl,
    "qwen4_exp": _qwen3_vl,
    "cohere_compass": _qwen3_vl,
    "internvl_vision": _internvl,
    "intern_vit_6b": _internvl,
    "kimi_k25": _kimi_k25,
}
