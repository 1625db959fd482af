"""Names of diffusers' ``UNet2DModel`` weights, which the published DDPM checkpoints use, and ours."""

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["rename_unet_weights"]

# Attention's names before and after diffusers renamed them; the published checkpoints have the older.
_NAMES = (
    (r"^time_embedding\.linear_(\d)\.", r"time\1."),
    (r"^class_embedding\.", "label."),
    (r"^conv_norm_out\.", "norm_out."),
    (r"^mid_block\.attentions\.0\.", "middle_attention."),
    (r"^mid_block\.resnets\.", "middle."),
    (r"^(down|up)_blocks\.(\d+)\.resnets\.", r"\1.\2.blocks."),
    (r"^(down|up)_blocks\.(\d+)\.attentions\.", r"\1.\2.attentions."),
    (r"^(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv\.", r"\1.\2.resample."),
    (r"\.time_emb_proj\.", ".embedding."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"(attention[s.\d]*)\.group_norm\.", r"\1.norm."),
    (r"(attention[s.\d]*)\.(?:to_q|query)\.", r"\1.query."),
    (r"(attention[s.\d]*)\.(?:to_k|key)\.", r"\1.key."),
    (r"(attention[s.\d]*)\.(?:to_v|value)\.", r"\1.value."),
    (r"(attention[s.\d]*)\.(?:to_out\.0|proj_attn)\.", r"\1.out."),
)


def rename_unet_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``UNet2DModel``'s state dict under the names of :class:`ddimkit.UNet`; the tensors are the same.

    Args:
        weights: names and tensors as diffusers saved them.

    Returns:
        the same tensors under our names, ready for ``UNet.load_state_dict``.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for theirs, ours in _NAMES:
            name = re.sub(theirs, ours, name)
        renamed[name] = tensor
    return renamed
