"""Bulk generation that any interruption leaves sound: many processes, one folder, exactly the images asked for.

A set of images is cut into blocks of consecutive seeds. Each block is drawn in one call of a fixed shape and written as one file,
whole or not at all. Which files exist is the only state.
"""

from ddimkit.generate.blocks import Blocks
from ddimkit.generate.export import export_adm, export_images, open_shards, shuffled
from ddimkit.generate.features import feature_sums, measure
from ddimkit.generate.manifest import ROUNDING, Manifest
from ddimkit.generate.run import Generated, generate
from ddimkit.generate.shards import Shard, Shards
from ddimkit.generate.verify import Redrawn, Verification, verify

__all__ = [
    "ROUNDING",
    "Blocks",
    "Generated",
    "Manifest",
    "Redrawn",
    "Shard",
    "Shards",
    "Verification",
    "export_adm",
    "export_images",
    "feature_sums",
    "generate",
    "measure",
    "open_shards",
    "shuffled",
    "verify",
]
