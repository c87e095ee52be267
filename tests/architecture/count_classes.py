"""Write classes.json: transformers' configuration classes at their defaults, with their weights.

    pip install transformers torch --index-url https://download.pytorch.org/whl/cpu
    python tests/architecture/count_classes.py

Models are built on the meta device: nothing is downloaded and no memory is taken. Types that cannot
be built from their defaults are left out, and so are those that are not decoder-only.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Weights of towers and what joins them to the text model.
TOWER = re.compile(
    r"vision|visual|audio|projector|image|multi_modal|vit\b|qformer|resampler|perceiver|connector"
    r"|aligner|speech|vqmodel|sam_|high_res"
)
#: Fields that say nothing of shapes.
IDLE = re.compile(
    r"token_id|dropout|initializer|eps$|use_cache|^rope_|theta|_feed_forward|output_|_coef|softcap"
    r"|multiplier|return_|hidden_act|activation|_version$|_name_or_path|is_encoder|id2label|label2id"
)


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    both = dict.fromkeys([*causal, *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES])
    found = {}
    for name in both:
        try:
            config = CONFIG_MAPPING[name]()
            kind = AutoModelForCausalLM if name in causal else AutoModelForImageTextToText
            with torch.device("meta"):
                model = kind.from_config(config)
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            ImportError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # its defaults are no model
            print(name, type(error).__name__)
            continue
        text = [(n, p) for n, p in model.named_parameters() if not TOWER.search(n)]
        found[name] = {
            "parameters": sum(p.numel() for _, p in text),
            "experts": sum(p.numel() for n, p in text if ".experts." in n),
            "config": {**shapes(config.to_dict()), "architectures": [type(model).__name__]},
        }
    lines = [f" {json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found)]
    (HERE / "classes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def shapes(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without towers and without what says nothing of shapes."""
    kept = {}
    for name, value in values.items():
        if IDLE.search(name) or re.search(r"(vision|audio)\w*_config", name):
            continue
        kept[name] = shapes(value) if isinstance(value, dict) else value
    return kept


if __name__ == "__main__":
    main()
