"""ViT's recipes, each with its source."""

import dataclasses
from typing import Literal

from core_jax.config import OptimizerConfig, TrainingConfig, require
from vit_jax.config import BASE, HUGE, LARGE, SMALL, TINY, MaeConfig, VitConfig
from vit_jax.images_config import ImagesConfig
from vit_jax.rows_config import RowsConfig, row_layout
from vit_jax.supervision import SupervisionConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitPretraining:
    """Trains ViT to classify images, or to fill in hidden parts of them."""

    preset: str = "vit-tiny"  # size and recipe that the other values started from
    init: str = ""  # start from the parameters of a finished run: its work folder
    # classify images, or fill in hidden patches of them (masked autoencoder: no labels are needed)
    objective: Literal["supervised", "mae"] = "supervised"
    model: VitConfig
    images: ImagesConfig
    mae: MaeConfig = dataclasses.field(default_factory=MaeConfig)
    supervision: SupervisionConfig
    rows: RowsConfig = dataclasses.field(default_factory=RowsConfig)
    optimizer: OptimizerConfig
    training: TrainingConfig

    def __post_init__(self):
        channels = self.model.channels
        require(channels in (1, 3), f"--channels={channels}: expected 3 (red, green, blue) or 1 (grey)")
        if self.objective == "mae":
            self.mae.decoder(self.model)
        if self.rows.packing:
            self._check_packing()

    def _check_packing(self):
        require(
            self.objective == "supervised",
            f"--packing=True and --objective={self.objective}: images are packed to learn from their labels alone; "
            "leave one of them out",
        )
        require(
            self.images.repeats == 1,
            f"--packing=True with --repeats={self.images.repeats}: a packed row has each image once; use --repeats=1",
        )
        for name in ("mixup", "cutmix"):
            share = getattr(self.supervision, name)
            require(
                not share,
                f"--packing=True: images of different sizes cannot be mixed by --{name}={share}; add --{name}=0",
            )
        row_layout(self.model, self.rows)


# Images of ImageNet's training set, of the 99 % of it that big_vision trains on, and so the steps of so many epochs.
IMAGENET, MOST_OF_IMAGENET = 1_281_167, 1_268_355


def steps_of(epochs: int, images: int, batch: int) -> int:
    """Steps of a number of epochs."""
    return round(epochs * images / batch)


# What all recipes for ImageNet have in common: parts of at least 5 % of an image (Szegedy et al. 2014, which is what
# big_vision does), mirrored or not, and scored on the middle of an image whose shorter side is 256.
INCEPTION = ImagesConfig(
    data="tfds:imagenet2012", crop="inception", least_area=0.05, flip=0.5, eval_resize=256, interpolation="bilinear"
)

# Dosovitskiy et al. 2020, table 3, last row: "ViT-* ImageNet". Weight decay is multiplied by the learning rate.
# The paper has a tanh layer before the classifier while it trains, which is --representation=True; the sizes that it
# gives are without.
ORIGINAL_OPTIMIZER = OptimizerConfig(
    learning_rate=3e-3, warmup_steps=10_000, schedule="cosine", weight_decay=0.3, epsilon=1e-8
)
ORIGINAL_TRAINING = TrainingConfig(steps=steps_of(300, IMAGENET, 4096), global_batch_size=4096)


def _original(preset: str, size: VitConfig, patch_size: int = 16, stem: str = "") -> VitPretraining:
    return VitPretraining(
        preset=preset,
        model=dataclasses.replace(size, patch_size=patch_size, stem=stem, dropout=0.1),
        images=INCEPTION,
        supervision=SupervisionConfig(),
        optimizer=ORIGINAL_OPTIMIZER,
        training=ORIGINAL_TRAINING,
    )


# Beyer et al. 2022, https://arxiv.org/abs/2205.01580, as big_vision/configs/vit_s16_i1k.py has it: 90 epochs reach
# 76.5 %. There weight decay is 0.0001 and not multiplied by the learning rate, whose highest value is 0.001: here 0.1.
BETTER_BASELINE = VitPretraining(
    preset="vit-s16",
    model=dataclasses.replace(SMALL, positions="sincos", class_token=False, pooling="mean", representation=True),
    images=dataclasses.replace(INCEPTION, data_split="train[:99%]", validation_split="validation", randaugment="2,10"),
    supervision=SupervisionConfig(mixup=0.2),
    optimizer=OptimizerConfig(
        learning_rate=1e-3,
        warmup_steps=10_000,
        schedule="cosine",
        weight_decay=0.1,
        epsilon=1e-8,
        moment_dtype="bfloat16",
    ),
    training=TrainingConfig(steps=steps_of(90, MOST_OF_IMAGENET, 1024), global_batch_size=1024),
)

# Steiner et al. 2021 (AugReg), https://arxiv.org/abs/2106.10270, figure 4, as big_vision/configs/vit_i1k.py has it
# for B/16 ("medium2", but for a strength of RandAugment of 10 instead of 15): 300 epochs on ImageNet, about 79 %. The
# head starts at about log(1 / 1000), for its sigmoids.
AUGREG = VitPretraining(
    preset="vit-b16-augreg",
    model=dataclasses.replace(BASE, representation=True),
    images=dataclasses.replace(BETTER_BASELINE.images, randaugment="2,10"),
    supervision=SupervisionConfig(loss="sigmoid", mixup=0.5, head_bias=-6.9),
    optimizer=BETTER_BASELINE.optimizer,
    training=TrainingConfig(steps=steps_of(300, MOST_OF_IMAGENET, 4096), global_batch_size=4096),
)


def _augreg_hybrid(preset: str, size: VitConfig, patch_size: int, stem: str, augmentation: str, mixup: float):
    """The recipe of AugReg for a hybrid.

    Sizes as configs/models.py of https://github.com/google-research/vision_transformer has them, without the tanh
    layer; images are changed as big_vision/configs/vit_i1k.py does for the ViT of the same width, but for a strength of
    RandAugment of 10 instead of 15. In R+Ti/16 the first convolution and the pooling are of stride 2 each, and patches
    of 8 x 8 places, so that they are 32 pixels apart, whatever its name says.
    """
    return dataclasses.replace(
        AUGREG,
        preset=preset,
        model=dataclasses.replace(size, patch_size=patch_size, stem=stem),
        images=dataclasses.replace(AUGREG.images, randaugment=augmentation),
        supervision=dataclasses.replace(AUGREG.supervision, mixup=mixup),
    )


# Touvron et al. 2020 (DeiT), https://arxiv.org/abs/2012.12877, table 9 and main.py of
# https://github.com/facebookresearch/deit, without distillation: 79.8 % there. The operations of RandAugment are those
# of big_vision, each applied; timm's are applied with probability one half, and some of them differ.
DEIT = VitPretraining(
    preset="vit-s16-deit",
    model=dataclasses.replace(SMALL, gelu="erf", initializer="normal", stochastic_depth=0.1),
    images=ImagesConfig(
        data="tfds:imagenet2012",
        crop="inception",
        flip=0.5,
        randaugment="2,9,0.5",
        repeats=3,
        random_erasing=0.25,
        normalization="imagenet",
        train_interpolation="bicubic",
        eval_crop=0.875,
    ),
    supervision=SupervisionConfig(label_smoothing=0.1, mixup=0.8, cutmix=1.0),
    optimizer=OptimizerConfig(
        learning_rate=1e-3,
        warmup_steps=5 * 1251,
        schedule="cosine",
        final_fraction=0.01,
        weight_decay=0.05,
        epsilon=1e-8,
        clip_norm=0.0,
    ),
    training=TrainingConfig(steps=300 * 1251, global_batch_size=1024, ema_decay=0.99996),  # 1251 steps are an epoch
)

# Dosovitskiy et al. 2020, table 4, with the defaults of https://github.com/google-research/vision_transformer: SGD
# with momentum, no weight decay, larger images than before. A rate of 0.03 is the highest of those it tries.
FINETUNING = VitPretraining(
    preset="vit-finetuning",
    model=BASE,
    images=ImagesConfig(crop="inception", least_area=0.05, flip=0.5),
    supervision=SupervisionConfig(),
    optimizer=OptimizerConfig(
        optimizer="sgd", learning_rate=0.03, warmup_steps=500, schedule="cosine", weight_decay=0.0
    ),
    training=TrainingConfig(steps=10_000, global_batch_size=512, evaluate_every=1_000),
)

# He et al. 2021, https://arxiv.org/abs/2111.06377, table 8 and section 4: 800 epochs, of which 40 warm up; the rate of
# 0.00015 for 256 images is 0.0024 for 4096.
MAE = VitPretraining(
    preset="vit-b16-mae",
    objective="mae",
    model=dataclasses.replace(BASE, gelu="erf", positions="sincos"),
    images=dataclasses.replace(INCEPTION, least_area=0.2, normalization="imagenet", train_interpolation="bicubic"),
    supervision=SupervisionConfig(),
    optimizer=OptimizerConfig(
        learning_rate=2.4e-3,
        warmup_steps=steps_of(40, IMAGENET, 4096),
        schedule="cosine",
        weight_decay=0.05,
        beta2=0.95,
        epsilon=1e-8,
        clip_norm=0.0,
    ),
    training=TrainingConfig(steps=steps_of(800, IMAGENET, 4096), global_batch_size=4096),
)

PRESETS = {
    # Our own recipe, for digits of 8 x 8 pixels and a minute or two on two cores: patches of 2 x 2 pixels, and mixup,
    # without which the model soon knows all images by heart.
    "vit-tiny": VitPretraining(
        preset="vit-tiny",
        model=VitConfig(
            width=64,
            depth=4,
            heads=4,
            mlp_width=128,
            image_size="8",
            channels=1,
            patch_size=2,
            class_token=False,
            pooling="mean",
        ),
        images=ImagesConfig(data="digits"),
        mae=MaeConfig(decoder_width=64, decoder_depth=1, decoder_heads=4),
        supervision=SupervisionConfig(mixup=0.4),
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup_steps=100, schedule="cosine", weight_decay=0.1, beta2=0.99
        ),
        training=TrainingConfig(
            steps=1500, global_batch_size=64, log_every=50, evaluate_every=500, checkpoint_every=500
        ),
    ),
    "vit-ti16": _original("vit-ti16", TINY),
    "vit-s16": BETTER_BASELINE,
    "vit-b16": _original("vit-b16", BASE),
    "vit-b32": _original("vit-b32", BASE, 32),
    "vit-l16": _original("vit-l16", LARGE),
    "vit-h14": _original("vit-h14", HUGE, 14),
    "vit-b16-augreg": AUGREG,
    # Hybrids: a ResNet reads the image. R50+B/16 as in Dosovitskiy et al. 2020, whose third stage has the units of the
    # fourth as well; the others as in Steiner et al. 2021.
    "vit-r50-b16": _original("vit-r50-b16", BASE, 1, "3,4,9"),
    "vit-r-ti16": _augreg_hybrid("vit-r-ti16", TINY, 8, "root", "2,0", 0.0),
    "vit-r26-s32": _augreg_hybrid("vit-r26-s32", SMALL, 1, "2,2,2,2", "2,10", 0.2),
    "vit-r50-l32": _augreg_hybrid("vit-r50-l32", LARGE, 1, "3,4,6,3", "2,10", 0.5),
    "vit-s16-deit": DEIT,
    "vit-b16-mae": MAE,
}
