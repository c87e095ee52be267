"""Read a quantization_config as `Rules`, with the reader of its method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from shardwise.architecture.fields import Fields
from shardwise.architecture.formats import FORMATS, Format
from shardwise.architecture.quantization.names import Names, everything
from shardwise.architecture.quantization.rules import Rule, Rules
from shardwise.errors import InputError

_PLAIN: Final = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "torch.bfloat16": "bf16",
    "torch.float16": "fp16",
    "torch.float32": "fp32",
    "float": "fp32",
    "half": "fp16",
}
_MAX_BLOCK: Final = 65536
_EXCLUDE: Final = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules")


def plain_format(config: Fields) -> Format:
    """Return the format of unquantized tensors, from torch_dtype."""
    names = [config.text(field) for field in ("torch_dtype", "dtype") if config.has(field)]
    dtypes = {_PLAIN.get(name, name) for name in names}
    if not dtypes <= set(_PLAIN.values()) or len(dtypes) > 1:
        shown = " and dtype ".join(repr(name[:60]) for name in names)
        raise InputError(
            f"{config.where}: torch_dtype is {shown}", "allowed: one of bfloat16, float16, float32"
        )
    return FORMATS[dtypes.pop() if dtypes else "bf16"]


def rules_of(quant: Fields, plain: Format) -> Rules:
    """Return the rules of a quantization_config. Raises InputError for unsupported content."""
    from shardwise.architecture.quantization import (
        bits,
        codebooks,
        compressed_tensors,
        modelopt,
        others,
        quark,
    )

    methods: dict[str, Callable[[Fields], Rules]] = {
        "fp8": fp8,
        "fbgemm_fp8": fbgemm_fp8,
        "mxfp4": mxfp4,
        "mxfp8": mxfp8,
        "w4afp8": w4afp8,
        "compressed-tensors": compressed_tensors.rules,
        "modelopt": modelopt.rules,
        "modelopt_fp4": modelopt.rules,
        "modelopt_mixed": modelopt.rules,
        "quark": quark.rules,
        "awq": bits.groups,
        "gptq": bits.groups,
        "awq_marlin": bits.groups,
        "gptq_marlin": bits.groups,
        "auto-round": bits.groups,
        "auto_round": bits.groups,
        "intel/auto-round": bits.groups,
        "bitsandbytes": bits.bitsandbytes,
        "torchao": bits.torchao,
        "hqq": others.hqq,
        "eetq": others.eetq,
        "quanto": others.quanto,
        "bitnet": others.bitnet,
        "experts_int8": others.experts_int8,
        "w8a8_int8": others.whole_int8,
        "w8a8_fp8": fbgemm_fp8,
        "fp_quant": others.fp_quant,
        "compressed_tensors": compressed_tensors.rules,
        "modelopt_mxfp8": modelopt.rules,
        "petit_nvfp4": modelopt.rules,
        "modelopt_fp8": modelopt.rules,
        "quark_mxfp4": quark.rules,
        "gpt_oss_mxfp4": mxfp4,
        "deepseek_v4_fp8": fp8,
        "blockwise_int8": others.blockwise_int8,
        "nvfp4": others.nvfp4,
        "fouroversix": others.four_over_six,
        "aqlm": codebooks.aqlm,
        "higgs": codebooks.higgs,
        "vptq": codebooks.vptq,
        **dict.fromkeys(("inc", "autoround", "auto_gptq", "gptqmodel", "moe_wna16"), bits.groups),
        **dict.fromkeys(("auto_awq", "auto-round-int8"), bits.groups),
        **dict.fromkeys(("bitblas", "gptq_bitblas", "marlin"), bits.groups),
    }
    method = quant.text("quant_method", _unnamed(quant))
    read = methods.get(method.lower())
    if method.lower() in _NOT_COUNTED:
        raise InputError(
            f"{quant.where}: quant_method is {method!r}: {_NOT_COUNTED[method.lower()]}",
            f"supported: {', '.join(methods)}",
        )
    if read is None:
        raise quant.bad("quant_method", f"one of {', '.join(methods)}")
    return replace(read(quant), plain=plain)


#: Methods whose config does not determine the bytes of a matrix -> why.
_NOT_COUNTED: Final = {
    "spqr": "the number of its sparse outliers differs by matrix",
    "gguf": "each tensor of the file has a type of its own",
    "gptq_marlin_24": "it stores half of the weights and their positions",
    "sinq": "the bytes of its scales are not known",
    "humming": "its dtypes are chosen when the engine starts",
    "modelslim": "its formats are in quant_model_description.json",
}


def _unnamed(quant: Fields) -> str:
    """Return the method of a config without one. ModelOpt states an algorithm instead."""
    if quant.has("quant_algo") or quant.has("quantization"):
        return "modelopt"
    return "compressed-tensors" if quant.has("config_groups") else ""


def excluded(quant: Fields) -> Names:
    """Return the names that are not quantized, from all fields that list exclusions."""
    entries = [entry for name in _EXCLUDE for entry in quant.items(name, str)]
    return Names(entries, quant.where)


def whole(quant: Fields, form: Format) -> Rules:
    """Return rules that store all linear layers except the excluded ones in `form`."""
    return Rules(rules=(Rule(everything(), form),), excluded=excluded(quant))


def fp8(quant: Fields) -> Rules:
    """fp8 with one scale per tensor, or per block of weight_block_size."""
    blocks = quant.items("weight_block_size", int)
    if blocks and (len(blocks) != 2 or any(not 0 < block <= _MAX_BLOCK for block in blocks)):
        raise quant.bad("weight_block_size", f"two whole numbers from 1 to {_MAX_BLOCK}")
    block = (blocks[0], blocks[1]) if blocks else (0, 0)
    form = FORMATS["mxfp8"] if block == (1, 32) else Format("fp8", 8, block, 4.0, "fp8")
    rules = whole(quant, form)
    if quant.text("moe_quant_algo", "").upper() == "NVFP4":
        return _with_nvfp4_experts(quant, form)
    if quant.text("expert_dtype", "fp8") != "fp4":
        return rules
    return replace(rules, rules=(_FP4_EXPERTS, *rules.rules))


#: DeepSeek-V4: routed experts in microscaled 4 bits, multiplied with fp8 activations.
_FP4_EXPERTS: Final = Rule(Names(["experts"]), replace(FORMATS["mxfp4"], activations="fp8"))


def _with_nvfp4_experts(quant: Fields, form: Format) -> Rules:
    """DeepSeek-V4 of NVIDIA: the listed experts in NVFP4, the rest as in the original.

    `ignore` lists what is not in NVFP4; vLLM does not read it.
    """
    listed = list(quant.object("quantized_layers").values) or ["experts"]
    original = (_FP4_EXPERTS,) if quant.text("expert_dtype", "fp8") == "fp4" else ()
    names = [e for field in ("ignored_layers", "modules_to_not_convert")
             for e in quant.items(field, str)]  # fmt: skip
    return Rules(
        rules=(
            Rule(Names(listed, quant.where), FORMATS["nvfp4"]),
            *original,
            Rule(everything(), form),
        ),
        excluded=Names(names, quant.where),
    )


def w4afp8(quant: Fields) -> Rules:
    """Routed experts in int4 by groups with fp8 activations, the rest in fp8."""
    group = quant.size("group_size", default=128, hi=_MAX_BLOCK)
    experts = Rule(Names(["experts"]), Format("int4", 4, (1, group), 2.0, "fp8"))
    rules = fp8(quant)
    return replace(rules, rules=(experts, *rules.rules))


def fbgemm_fp8(quant: Fields) -> Rules:
    """fp8 with one 32-bit scale per output."""
    return whole(quant, FORMATS["fp8"])


def mxfp8(quant: Fields) -> Rules:
    """Rules of an mxfp8 config, in which every linear layer has that format."""
    return whole(quant, FORMATS["mxfp8"])


def mxfp4(quant: Fields) -> Rules:
    """gpt-oss: only routed experts are quantized, as in vLLM and transformers; 16-bit inputs."""
    form = replace(FORMATS["mxfp4"], activations="bf16")
    return Rules(rules=(Rule(Names(["experts"]), form),), excluded=excluded(quant))
