import dataclasses
import json

import pytest

from bert_jax.config import PRESETS, BertConfig, BertPretraining, TextConfig
from core_jax.config import OptimizerConfig, TrainingConfig, differences, from_json, nearest_divisor, to_json
from core_jax.errors import UserError

TINY = PRESETS["bert-tiny"]
SHAPE = {"width": 8, "depth": 1, "heads": 2, "mlp_width": 8}


def changed(config, **changes):
    """A pretraining config with some fields of its parts changed."""
    parts = {}
    for name, value in changes.items():
        part, field = name.split("__")
        parts[part] = dataclasses.replace(parts.get(part, getattr(config, part)), **{field: value})
    return dataclasses.replace(config, **parts)


@pytest.mark.parametrize("preset", PRESETS)
def test_json_brings_every_preset_back(preset):
    config = PRESETS[preset]
    assert config.preset == preset
    assert from_json(BertPretraining, to_json(config)) == config


def test_json_brings_every_field_back():
    config = changed(
        TINY, model__dropout=0.3, text__lowercase=False, optimizer__schedule="wsd", training__workdir="gs://a/b"
    )
    again = from_json(BertPretraining, to_json(config))
    assert again == config != TINY
    assert isinstance(again.model, BertConfig)


@pytest.mark.parametrize("part", [None, "model", "training"])
def test_unknown_fields_are_refused(part):
    fields = json.loads(to_json(TINY))
    (fields[part] if part else fields)["wdith"] = 3
    with pytest.raises(UserError, match=r"does not know: wdith"):
        from_json(BertPretraining, json.dumps(fields))


BAD = [
    *((BertConfig, SHAPE, name, 0) for name in ("width", "depth", "heads", "mlp_width")),
    *((BertConfig, SHAPE, name, value) for name in ("dropout", "attention_dropout") for value in (-0.1, 1.0)),
    *((BertConfig, SHAPE, name, 0) for name in ("vocab_size", "maximum_positions", "type_vocab_size")),
    *((OptimizerConfig, {}, name, -1.0) for name in ("learning_rate", "clip_norm")),
    (OptimizerConfig, {}, "warmup_steps", -1),
    *((OptimizerConfig, {}, name, value) for name in ("final_fraction", "decay_fraction") for value in (-0.1, 1.1)),
    *((OptimizerConfig, {}, name, value) for name in ("beta1", "beta2") for value in (-0.1, 1.0)),
    *(
        (TrainingConfig, {}, name, 0)
        for name in ("steps", "global_batch_size", "accumulation_steps", "log_every", "keep_checkpoints")
    ),
    *((TrainingConfig, {}, name, -1) for name in ("evaluate_every", "checkpoint_every")),
    *((TrainingConfig, {}, "seed", value) for value in (-1, 2**31)),
    *((TextConfig, {}, name, value) for name in ("mask_probability", "held_out") for value in (0.0, 1.0)),
    *((TextConfig, {}, "short_probability", value) for value in (-0.1, 1.1)),
    (TextConfig, {}, "sequence_length", 7),
    (TextConfig, {}, "evaluation_passes", 0),
]


@pytest.mark.parametrize(("kind", "rest", "name", "value"), BAD)
def test_bad_values_name_their_flag(kind, rest, name, value):
    with pytest.raises(UserError) as caught:
        kind(**rest | {name: value})
    assert f"--{name}={value}: expected" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (BertConfig, SHAPE | {"dropout": 0.0, "attention_dropout": 0.0}),
        (OptimizerConfig, {"learning_rate": 0.0, "warmup_steps": 0, "clip_norm": 0.0, "beta1": 0.0, "beta2": 0.0}),
        (OptimizerConfig, {"final_fraction": 1.0, "decay_fraction": 0.0}),
        (TrainingConfig, {"evaluate_every": 0, "checkpoint_every": 0, "seed": 2**31 - 1}),
        (TextConfig, {"sequence_length": 8, "short_probability": 1.0}),
    ],
)
def test_values_at_the_edge_are_taken(kind, fields):
    assert {name: getattr(kind(**fields), name) for name in fields} == fields


def test_a_negative_weight_of_next_sentence_prediction_is_refused():
    with pytest.raises(UserError, match=r"--next_sentence_weight=-1.0: expected 0 or more"):
        dataclasses.replace(PRESETS["bert-tiny"], next_sentence_weight=-1.0)


def test_what_does_not_fit_together_offers_what_does():
    with pytest.raises(UserError, match=r"--width=12 does not divide into --heads=5: .* such as 4$"):
        BertConfig(width=12, depth=1, heads=5, mlp_width=8)
    with pytest.raises(UserError, match=r"--global_batch_size=10 does not divide into --accumulation_steps=4"):
        TrainingConfig(global_batch_size=10, accumulation_steps=4)
    with pytest.raises(
        UserError, match=r"--sequence_length=513 .*--maximum_positions=512.*: use --sequence_length=512"
    ):
        changed(TINY, text__sequence_length=513)


def test_differences_are_what_changes_learning():
    elastic = changed(
        TINY,
        model__remat="full",
        model__attention="reference",
        training__steps=7,
        training__accumulation_steps=2,
        training__mesh="fsdp:-1",
        training__workdir="elsewhere",
        training__log_every=3,
        training__evaluate_every=4,
        training__checkpoint_every=5,
        training__keep_checkpoints=6,
    )
    assert differences(elastic, TINY) == {}
    other = changed(elastic, model__depth=3, text__held_out=0.5, optimizer__beta2=0.5, training__seed=9)
    other = dataclasses.replace(other, init="runs/a")
    assert differences(other, TINY) == {
        "depth": (3, 2),
        "held_out": (0.5, 0.05),
        "beta2": (0.5, 0.98),
        "seed": (9, 0),
        "init": ("runs/a", ""),
    }


@pytest.mark.parametrize(
    ("number", "wanted", "nearest"), [(12, 5, 4), (12, 12, 12), (12, 100, 12), (12, 1, 1), (7, 3, 1), (768, 11, 12)]
)
def test_nearest_divisor(number, wanted, nearest):
    assert nearest_divisor(number, wanted) == nearest
