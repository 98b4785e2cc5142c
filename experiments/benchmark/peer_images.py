"""The peer of image reading: what a plain PyTorch script does with Pillow, one image after the other.

Axes: H x W pixels, N images.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from jaxtyping import Float32
from PIL import Image

from core_jax.draws import generator
from vit_jax.image_transforms import RESAMPLING, inception_box
from vit_jax.images_config import NORMALIZATIONS, ImagesConfig


class PlainImages:
    """A data set as for torch's DataLoader: opens, crops, resizes, mirrors, makes a tensor, normalises.

    What is random is drawn as ours draws it, so that both sides cut the same parts out.
    """

    def __init__(self, files: Sequence[str], images: ImagesConfig, side: int, seed: int):
        self._files, self._images, self._side, self._seed = files, images, side, seed
        mean, deviation = NORMALIZATIONS[images.normalization]
        self._mean, self._deviation = (torch.tensor(values).view(3, 1, 1) for values in (mean, deviation))

    def tensor(self, epoch: int, index: int) -> Any:
        """One image, channels first."""
        random = generator(self._seed, epoch, index)
        with open(self._files[index], "rb") as file:
            image = Image.open(file).convert("RGB")
        box = inception_box(*image.size, self._images.least_area, random)
        image = image.crop(box).resize((self._side, self._side), RESAMPLING[self._images.train_interpolation])
        if random.random() < self._images.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # As torchvision's ToTensor and Normalize.
        values = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous()
        return values.to(torch.float32).div(255).sub_(self._mean).div_(self._deviation)

    def batch(self, epoch: int, indices: Sequence[int]) -> Any:
        """Some images, as torch's default_collate puts them together."""
        return torch.stack([self.tensor(epoch, index) for index in indices])

    def pixels(self, epoch: int, indices: Sequence[int]) -> Float32[np.ndarray, "N H W 3"]:
        """The same, channels last, to compare."""
        return self.batch(epoch, indices).permute(0, 2, 3, 1).numpy()


def use_one_thread() -> None:
    """For torch, as NumPy and Pillow have it for what is done here."""
    torch.set_num_threads(1)
