"""Describe the price behind a cost."""

from __future__ import annotations

from shardwise.hardware.catalogue import Price


def price_note(price: Price | None) -> str:
    """`price: 2.5 USD per GPU-hour (provider, tier, source, date)`; "" without a price."""
    if price is None:
        return ""
    about = ", ".join(
        part for part in (price.provider, price.tier, price.source, price.date) if part
    )
    return f"price: {price.usd_per_hour:g} USD per GPU-hour ({about})"
