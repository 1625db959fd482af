"""diffusers' ``UNet2DModel``, in which the published DDPM checkpoints are kept, as the reference UNet."""

from pathlib import Path

from ddimkit.models.diffusers_names import rename_unet_weights, unet_config
from ddimkit.models.unet import UNet

__all__ = ["load_unet", "rename_unet_weights", "unet_config"]


def load_unet(folder: str | Path, *, variant: str | None = None) -> UNet:
    """The UNet of a folder of diffusers: :meth:`UNet.from_diffusers <ddimkit.models.unet.UNet.from_diffusers>`.

    Args:
        folder: what ``UNet2DModel.save_pretrained`` wrote, or a pipeline's folder that holds such a ``unet``.
        variant: as in ``save_pretrained(folder, variant="fp16")``; None reads the files without a variant.

    Raises:
        FileNotFoundError: there is no configuration.
        ValueError: a setting that the UNet has no equal of, naming it.
        WeightsError: there are no weights of this variant as safetensors, or not those of this configuration.
    """
    return UNet.from_diffusers(folder, variant=variant)
