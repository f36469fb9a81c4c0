"""The InceptionV3 of published FIDs and Inception Scores, from the library torch-fidelity."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from diffusion.data.images import ImageData
from diffusion.evaluation.classifier import state_hash
from diffusion.evaluation.features.base import Features, read_state
from diffusion.system.errors import UserError, brief


class InceptionFeatures(Features):
    """The 2048 features and 1008 unbiased logits of the InceptionV3 that published FIDs and Inception Scores use.

    Grey images are repeated to three channels and all are resized to 299×299 as TensorFlow 1 did, which alone moves
    the scores; the library does the resizing.

    Args:
        weights: the library's file weights-inception-2015-12-05-6726825d.pth, or None to download it.
    """

    preprocessing = "grey repeated to RGB; bilinear to 299×299 in the TensorFlow 1 manner; (uint8 − 128) / 128"

    def __init__(
        self, data: ImageData, device: torch.device, cache: str = "data/cache", weights: str | None = None
    ) -> None:
        super().__init__(data, device, cache)
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError(
                'features=inception needs the library torch-fidelity: pip install -e ".[inception]".'
            ) from error
        layers = ("inception-v3-compat", ["2048", "logits_unbiased"])
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            path = None
            if weights is not None:  # the library would run code from the file, so it gets a copy of the tensors alone
                path = str(Path(folder) / "weights.pth")
                torch.save(read_state(weights), path)
            try:
                self.network = FeatureExtractorInceptionV3(*layers, feature_extractor_weights_path=path)
            except Exception as error:  # urllib raises many kinds, and PyTorch one for tensors that do not fit
                if weights is not None:
                    raise UserError(f"features.weights={weights} are not those of the FID InceptionV3.") from error
                raise UserError(
                    f"features=inception: the weights could not be downloaded ({brief(error)}); fetch "
                    "weights-inception-2015-12-05-6726825d.pth from torch-fidelity's releases and give it as "
                    "features.weights=FILE."
                ) from error
        self.network.to(device)
        self.fingerprint = state_hash(self.network)
        self.name = f"InceptionV3 (torch-fidelity), weights {self.fingerprint}"

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        rgb = images if images.shape[1] == 3 else images.repeat(1, 3, 1, 1)
        parts = [self.network(part.to(self.device)) for part in rgb.split(50)]
        features, logits = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        return features, logits
