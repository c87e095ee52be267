"""`explain`: one layer under tensor parallelism, with real values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shardwise.api.result import Result

if TYPE_CHECKING:
    from shardwise.engine.teaching import Explanation
    from shardwise.reports.table import Table


class LayerExplanation(Result):
    """How each weight of a layer is sharded, and how the ranks' partial outputs add up."""

    kind = "explain"

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation

    def summary(self) -> str:
        """Return the layer, the ranks and the number of prompt tokens."""
        found = self.explanation
        ranks = f"{found.tp_size} rank{'s' if found.tp_size > 1 else ''}"
        return f"Layer {found.layer} on {ranks}, {found.num_tokens} tokens"

    def tables(self) -> list[Table]:
        """Return `weights`, with the shard of each rank, then `sums`, the two all-reduces."""
        from shardwise.reports.explain_tables import sums_table, weights_table

        return [weights_table(self.explanation), sums_table(self.explanation)]

    def _answer(self) -> dict[str, Any]:
        import msgspec

        found: dict[str, Any] = msgspec.to_builtins(self.explanation)
        return found


def explain(
    model: str,
    *,
    tp_size: int = 2,
    layer: int = 0,
    prompt: str = "",
    random_weights: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> LayerExplanation:
    """Shard one layer of a model over ranks, run it, and add up the ranks' partial outputs.

    Args:
        model: A Hugging Face folder, a .gguf file, or a bundled id (`llama-51m`, random weights).
        tp_size: Ranks to shard over.
        layer: Number of the layer, from 0.
        prompt: Text, or token ids such as `17 4 291` without a tokenizer; "" takes four tokens.
        random_weights: Whether to use random weights; only config.json is needed.
        say: Called with a line if the weights are random because the model is bundled.

    Raises:
        InputError: The engine's libraries are missing, or the layer, prompt or TP is not possible.
        UnknownNameError: The model is neither a path nor bundled.
    """
    from shardwise.api.extras import require_engine_extra

    require_engine_extra()
    from shardwise.api.model_folder import model_folder
    from shardwise.engine import teaching, tokenizer

    with model_folder(model, random_weights, say) as (path, random):
        tokens = tokenizer.load(path).encode(prompt) if prompt else [1, 2, 3, 4]
        return LayerExplanation(teaching.explain(path, tp_size, layer, tokens, random))
