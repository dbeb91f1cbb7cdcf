"""Which workers to ask: hard needs first, then cost per unit of work, then speed and nearness (SPEC.md §12).

Pure and vectorised: adverts in, the same adverts ranked out. What an advert claims is only where the search
starts; what a worker does in the lease decides what is paid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from millrace.core.cost import PRICE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ledger.core.keys import AccountId
    from p2p.core.adverts import Advert

__all__ = ["Needs", "Offer", "Weights", "choose", "offer_from_advert", "rank", "unfit"]

OFFERS_MAX: Final = 4096
RTT_UNKNOWN_MS: Final = 200.0


@dataclass(frozen=True, slots=True)
class Offer:
    """One worker's capacity, as far as the market compares it. Prices in micro-credits per 10^12 fuel."""

    worker: AccountId
    owner: AccountId
    price_per_tfuel: int
    fuel_per_s: int
    memory_bytes: int
    slots: int
    kinds: tuple[str, ...] = ("wasm",)
    region: str = ""
    rtt_ms: float | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker must have."""

    kind: str = "wasm"
    memory_bytes: int = 0
    price_per_tfuel_max: int = PRICE_MAX
    region: str = ""
    rtt_ms_max: float | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """How much a doubling of each counts against an offer."""

    cost: float = 1.0
    time: float = 0.5
    rtt: float = 0.1


def offer_from_advert(worker: AccountId, advert: Advert, rtt_ms: float | None = None) -> Offer:
    """What the market reads of a gossiped advert."""
    return Offer(
        worker=worker,
        owner=advert.owner,
        price_per_tfuel=advert.price_per_tfuel,
        fuel_per_s=advert.rates.get("wasm", 0),
        memory_bytes=advert.memory_bytes,
        slots=advert.slots_free,
        kinds=advert.kinds,
        region=advert.region,
        rtt_ms=rtt_ms,
        name=advert.name,
    )


def unfit(offer: Offer, needs: Needs) -> str | None:
    """Which need the offer misses; None if it may take part."""
    if needs.kind not in offer.kinds:
        return f"does not run {needs.kind}"
    if offer.slots < 1:
        return "no free slot"
    if offer.memory_bytes < needs.memory_bytes:
        return f"{offer.memory_bytes} bytes of memory, {needs.memory_bytes} are needed"
    if offer.price_per_tfuel > needs.price_per_tfuel_max:
        return f"price {offer.price_per_tfuel} is over {needs.price_per_tfuel_max}"
    if needs.region and offer.region != needs.region:
        return f"is in {offer.region or 'an unknown region'}, not {needs.region}"
    if needs.rtt_ms_max is not None and (offer.rtt_ms is None or offer.rtt_ms > needs.rtt_ms_max):
        return f"round trip over {needs.rtt_ms_max} ms"
    return None


def rank(offers: Iterable[Offer], needs: Needs, weights: Weights | None = None) -> list[Offer]:
    """The offers that fit, best first; equal ones in the order of their account, so that the order is total.

    The score is a weighted sum of logarithms, so each weight speaks about ratios ("twice as dear"), and no
    unit of price, speed or distance has to be converted into another. Time is the inverse of the measured rate.
    """
    fit = [offer for offer in offers if unfit(offer, needs) is None][:OFFERS_MAX]
    if not fit:
        return []
    weights = weights or Weights()
    price = np.array([max(1, offer.price_per_tfuel) for offer in fit], dtype=np.float64)
    rate = np.array([max(1, offer.fuel_per_s) * max(1, offer.slots) for offer in fit], dtype=np.float64)
    rtt = np.array([RTT_UNKNOWN_MS if offer.rtt_ms is None else offer.rtt_ms for offer in fit])
    score = (
        weights.cost * np.log2(price) - weights.time * np.log2(rate) + weights.rtt * np.log2(1.0 + rtt / 10.0)
    )
    order = sorted(range(len(fit)), key=lambda index: (round(float(score[index]), 9), fit[index].worker))
    return [fit[index] for index in order]


def choose(ranked: Sequence[Offer], count: int) -> list[Offer]:
    """The best `count` offers of distinct owners; fewer if there are fewer owners."""
    seen: set[AccountId] = set()
    chosen: list[Offer] = []
    for offer in ranked:
        if offer.owner not in seen and len(chosen) < count:
            seen.add(offer.owner)
            chosen.append(offer)
    return chosen
