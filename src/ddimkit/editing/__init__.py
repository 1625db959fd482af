r"""Editing of images that exist: start part-way, reconstruct, interpolate, inpaint.

====================== ==========================================================================================================
function               what it does
====================== ==========================================================================================================
:func:`image_to_image` adds noise up to a timestep and samples from there (Meng et al., *SDEdit*, 2022)
:func:`reconstruct`    inverts and samples again (Song, Meng and Ermon 2020, section 5.4)
:func:`interpolate`    samples between two latents, or between the latents of two images (the same, section 5.3)
:func:`inpaint`        paints a part of an image anew (Lugmayr et al., *RePaint*, 2022, algorithm 1)
====================== ==========================================================================================================

All noise is keyed by each sample's seed, so an edited image does not depend on the others of its batch. Noise that a sampler itself
does not draw comes from a stream of its own, :data:`~ddimkit.noise.STREAM_EDIT`.
"""

from ddimkit.editing.inpainting import inpaint, repaint_rows
from ddimkit.editing.interpolation import interpolate, latents_of, spherical
from ddimkit.editing.part_way import Reconstruction, image_to_image, reconstruct

__all__ = [
    "Reconstruction",
    "image_to_image",
    "inpaint",
    "interpolate",
    "latents_of",
    "reconstruct",
    "repaint_rows",
    "spherical",
]
