"""Pictures of random smooth colours, the bytes of their files, and class folders of them."""

import io

import numpy as np
from PIL import Image


def smooth_image(width, height, seed=0, mode="RGB"):
    channels = len(Image.new(mode, (1, 1)).getbands())
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), np.uint8)
    return Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BICUBIC)


def file_of(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write_folder(folder, counts, *, suffix="jpg"):
    """A folder with {class: number} pictures."""
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            form = Image.registered_extensions()[f".{suffix}"]
            content = file_of(smooth_image(24 + number, 20, seed=100 * place + number), form)
            (folder / name / f"{number:02}.{suffix}").write_bytes(content)
    return f"images:{folder}"
