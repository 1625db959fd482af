r"""Inception features of RGB images, by the network of torch-fidelity: those of the published Fréchet and kernel distances.

The weights are not part of this package, and nothing is fetched. torch-fidelity names where its file is
(``torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3``); as that is a pickle, write it anew once, as safetensors::

    weights = torch.load("weights-inception-2015-12-05-6726825d.pth", weights_only=True)
    safetensors.torch.save_file(weights, "inception.safetensors")
"""

import io
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ddimkit.errors import DDIMKitError, WeightsError
from ddimkit.quality.features import Extractor
from ddimkit.weights._tensorfile import check_sha256

__all__ = ["inception_extractor"]

Layer = Literal["64", "192", "768", "2048"]
_MODULE = "torch_fidelity.feature_extractor_inceptionv3"


def inception_extractor(
    weights: str | Path, *, layer: Layer = "2048", sha256: str | None = None, device: torch.device | str = "cpu"
) -> Extractor:
    r"""Inception's features of RGB images, for :class:`~ddimkit.quality.reference.Reference` and ``Evaluator``.

    Images (B, 3, H, W) are rounded to unsigned bytes, resized to 299 × 299 as TensorFlow 1 did it, and go through the network that
    the published figures rest on. Its hash in results is that of the weights' file and the layer.

    Args:
        weights: safetensors file of the network's state dict.
        layer: whose average pooling gives the features, named by their width.
        sha256: what the file's hash must be; None to take any.
        device: where the network runs.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: another hash, no safetensors file, or not the weights of this network.
        ValueError: an unknown layer.
        DDIMKitError: torch-fidelity cannot be imported.

    Source: Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, 2017.
    """
    if layer not in ("64", "192", "768", "2048"):
        raise ValueError(f"layer must be '64', '192', '768' or '2048', got {layer!r}")
    weights = Path(weights)
    content = weights.read_bytes()
    found = check_sha256(weights, content, sha256)
    network = _network(weights, content, layer).eval().to(device)

    def extract(images: Tensor) -> Tensor:
        features: Tensor = network(images.add(1).mul(127.5).round().to(torch.uint8))[0]
        return features

    return Extractor(extract, f"Inception {layer}", f"{found}-{layer}", device=torch.device(device))


def _network(weights: Path, content: bytes, layer: Layer) -> Any:
    try:
        library = import_module(_MODULE)
    except (ImportError, RuntimeError, OSError) as error:
        raise DDIMKitError(f"Inception features need torch-fidelity, `python -m pip install torch-fidelity`: {error}") from error
    try:
        # The library loads a pickle from a path or a file: it gets one that was made here, of tensors read as safetensors.
        file = io.BytesIO()
        torch.save(load(content), file)
        file.seek(0)
        return library.FeatureExtractorInceptionV3("inception-v3-compat", [layer], feature_extractor_weights_path=file)
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{weights} does not hold the weights of torch-fidelity's Inception: {error}") from error
