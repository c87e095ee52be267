"""Published config.json files, against parameter counts of transformers."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import pytest

from shardwise.architecture.model import Model
from shardwise.architecture.models import load
from shardwise.errors import InputError

CONFIGS = Path(__file__).resolve().parents[3] / "shared" / "configs"
pytestmark = pytest.mark.skipif(
    not CONFIGS.is_dir(), reason="needs the published configurations in ../shared/configs"
)

#: The count is of another model than the file describes.
NOT_COMPARABLE = {
    # text in text_config below a model_type that transformers gives a flat class: it counts the
    # class's defaults (7.95B, 34 layers) instead of the file's 3B model
    "ministral3/mlc-ministral3_3b_2512.json",
}


def files() -> list[str]:
    found = [*CONFIGS.glob("*/*.json"), *CONFIGS.glob("*/*/config.json")]
    return sorted(str(file.relative_to(CONFIGS)) for file in found)


@cache
def expected() -> dict[str, dict[str, str]]:
    with (CONFIGS / "expected.csv").open(encoding="utf-8") as table:
        return {row["file"]: row for row in csv.DictReader(table)}


@cache
def models() -> dict[str, Model | InputError]:
    read: dict[str, Model | InputError] = {}
    for file in files():
        try:
            read[file] = load(str(CONFIGS / file))
        except InputError as error:
            read[file] = error
    return read


def test_at_least_95_percent_are_accepted() -> None:
    refused = [file for file, model in models().items() if isinstance(model, InputError)]
    assert len(refused) <= 0.05 * len(files()), refused


def test_each_refusal_is_one_line() -> None:
    for model in models().values():
        assert not isinstance(model, InputError) or "\n" not in str(model)


def test_language_model_parameters_agree_within_a_thousandth() -> None:
    """A reward or embedding model has no head; transformers counts one, built as a causal LM."""
    wrong = {}
    for file, row in expected().items():
        model = models().get(file)
        if not row["language_model"] or file in NOT_COMPARABLE or not isinstance(model, Model):
            continue
        counted = model.parameters()
        if not model.generates and not model.tie_embeddings:
            counted += model.embedding.parameters
        if abs(counted / int(row["language_model"]) - 1) > 1e-3:
            wrong[file] = (counted, int(row["language_model"]))
    assert not wrong


def test_routed_experts_agree_exactly() -> None:
    for file, row in expected().items():
        model = models().get(file)
        if row["routed_experts"] and isinstance(model, Model) and file not in NOT_COMPARABLE:
            assert model.parameters("experts") == int(row["routed_experts"]), file


def test_vision_towers_agree_within_a_hundredth() -> None:
    for file, row in expected().items():
        model = models().get(file)
        if isinstance(model, Model) and row["vision"] not in ("", "0"):
            tower = sum(t.parameters for t in model.towers)
            assert tower == pytest.approx(int(row["vision"]), rel=0.01), file


def test_numbers_of_layers_agree() -> None:
    for file, row in expected().items():
        model = models().get(file)
        if isinstance(model, Model) and row["layers"]:
            assert model.num_layers == int(row["layers"]), file
