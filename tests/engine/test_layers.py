"""Layers compute products in every dtype, whether or not oneDNN packs it on this processor."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install 'shardwise[engine]'")

from shardwise.engine.layers import Linear  # noqa: E402


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_product_is_right_in_every_dtype(name: str) -> None:
    drawn = torch.Generator().manual_seed(3)
    weight, x = (torch.randn(size, generator=drawn) for size in ((24, 64), (5, 64)))
    bias = torch.randn(24, generator=drawn)
    dtype = getattr(torch, name)
    found = Linear(weight.to(dtype), bias.to(dtype))(x.to(dtype)).float()
    assert found.shape == (5, 24)
    torch.testing.assert_close(found, x @ weight.T + bias, rtol=0.02, atol=0.2)


def test_a_dtype_that_is_not_packed_is_multiplied_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardwise.engine.layers._is_packable", lambda _dtype: False)
    weight = torch.eye(8, dtype=torch.bfloat16)
    assert torch.equal(Linear(weight)(weight), weight)
