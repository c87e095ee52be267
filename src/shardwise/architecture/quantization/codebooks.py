"""Vector quantization: AQLM and VPTQ store indices to codebooks, HIGGS to a fixed grid.

Shapes: the QuantizedLinear of aqlm 1.1, the VQuantLinear of vptq 0.0.5, transformers'
integrations/higgs.py.
"""

from __future__ import annotations

from shardwise.architecture.fields import Fields
from shardwise.architecture.formats import Format
from shardwise.architecture.quantization.names import Names, everything
from shardwise.architecture.quantization.rules import Rule, Rules
from shardwise.errors import InputError


def aqlm(quant: Fields) -> Rules:
    """AQLM: an index of 8 or 16 stored bits per group and codebook, a 16-bit scale per row of
    groups. Each matrix has its own codebooks."""
    across, down = quant.size("in_group_size", default=8), quant.size("out_group_size", default=1)
    books = quant.size("num_codebooks", default=1, hi=64)
    bits = quant.size("nbits_per_codebook", default=16, hi=16)
    stored = 8 if bits <= 8 else 16
    form = Format(
        "int4",
        books * stored / (across * down),
        (down, 0),
        2.0,
        "bf16",
        table_bytes=2.0 * books * 2**bits * across * down,
    )
    kept = Names(quant.items("linear_weights_not_to_quantize", str), quant.where)
    return Rules(rules=(Rule(everything(), form),), excluded=kept)


def higgs(quant: Fields) -> Rules:
    """HIGGS: 2 to 4 bits per weight and a 16-bit scale per group of inputs."""
    bits = quant.size("bits", default=4)
    if bits not in (2, 3, 4):
        raise quant.bad("bits", "2, 3 or 4")
    group = quant.size("group_size", default=256, hi=65536)
    kept = Names(quant.items("modules_to_not_convert", str), quant.where)
    form = Format("int4", bits, (1, group), 2.0, "bf16")
    return Rules(rules=(Rule(everything(), form),), excluded=kept)


def vptq(quant: Fields) -> Rules:
    """VPTQ: each module is listed with its codebooks; indices of a vector of outputs are packed."""
    layers = quant.object("config_for_layers")
    if not layers.values:
        raise quant.bad("config_for_layers", "an object: module name -> its codebooks")
    named: dict[Format, list[str]] = {}
    for name in layers.values:
        named.setdefault(_vptq_format(layers.object(name)), []).append(name)
    rules = tuple(
        Rule(Names(names, layers.where), form, everywhere=True) for form, names in named.items()
    )
    kept = Names(quant.items("modules_to_not_convert", str), quant.where)
    return Rules(rules=rules, excluded=kept)


def _vptq_format(layer: Fields) -> Format:
    if layer.size("outlier_size", default=0, lo=0):
        raise layer.bad("outlier_size", "0: outliers with codebooks of their own are not supported")
    length = _second(layer, "vector_lens", lo=1)
    main, rest = _second(layer, "num_centroids", lo=2), _second(layer, "num_res_centroids", lo=-1)
    sizes = [main, *([rest] if rest > 0 else [])]
    if any(size & (size - 1) for size in sizes):
        raise layer.bad("num_centroids", "powers of two")
    bits = sum(size.bit_length() - 1 for size in sizes)
    groups = layer.size("group_num", default=1, hi=65536)
    # per input: a 16-bit scale and offset, a 16-bit position
    each = 4.0 * layer.flag("enable_norm", True) + 2.0 * layer.flag("enable_perm", True)
    table = 2.0 * groups * length * sum(sizes)
    return Format("int4", bits / length, (0, 1), each, "bf16", table_bytes=table)


def _second(layer: Fields, name: str, lo: int) -> int:
    """Return the second of two numbers; the first one is that of outliers."""
    given = layer.items(name, int)
    if len(given) != 2 or not lo <= given[1] <= 2**20:
        raise InputError(
            f"{layer.where}: {name} is {str(given)[:40]}", f"allowed: two whole numbers from {lo}"
        )
    return int(given[1])
