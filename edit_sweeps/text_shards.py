"""Which files of a large data set on the hub second moments are taken over: a few of them hold enough.

They are named here, and not left to the order in which the hub lists them, so that a machine with a
network and one with a data folder read the same text. Light imports only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SHARDS: Mapping[tuple[str, str | None, str], tuple[str, ...]] = MappingProxyType(
    {
        # The first of two: some 58 million tokens of GPT-2's, 157 MB; moments=quick takes 200,000.
        ("Salesforce/wikitext", "wikitext-103-raw-v1", "train"): (
            "wikitext-103-raw-v1/train-00000-of-00002.parquet",
        ),
        # Four of 41, spread evenly: articles are ordered by age, and old ones are long. The whole is
        # 20 GB of text, so these hold some 400 million tokens; moments=faithful takes 44 million.
        ("wikimedia/wikipedia", "20231101.en", "train"): tuple(
            f"20231101.en/train-{number:05d}-of-00041.parquet" for number in (5, 15, 25, 35)
        ),
    }
)
"""Hub id, subset and split -> files of the data set."""


def shards_of(source: str, subset: str | None, split: str) -> tuple[str, ...]:
    """The files to read; empty: whatever the hub's data set says."""
    return SHARDS.get((source, subset, split), ())


def label(source: str, subset: str | None, split: str) -> str:
    """What stands for a data set on the hub in digests and keys: the same wherever it is read from."""
    return f"hub:{' '.join((source, *shards_of(source, subset, split)))}"
