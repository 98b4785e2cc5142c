"""A GPT that labels texts: packed or alone the same, read where all has been seen, as the peer does it."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.gpt_for_labels import GptForLabels
from bert_jax.gpt_weights import write_hf
from bert_jax.labelled_rows import LabelledTexts, pack_texts
from bert_jax.labelled_texts import Columns, encode_examples
from bert_jax.labelling import initial_label_params, labelling_loss
from bert_jax.model import Head
from bert_jax.tokenizer import ByteLevelBpe
from bert_jax.tokenizer_training import train_byte_level_bpe
from core_jax.errors import UserError
from experiments import convert, embed, evaluate, finetune, predict
from tests.labelled_words import CLASSES, LENGTH, columns, records
from tests.tiny_gpt import CONFIG, padded, random_params, random_tokens

FILES = {"data": "train", "validation_data": "validation"}
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)


@functools.cache
def tokenizer() -> ByteLevelBpe:
    return train_byte_level_bpe([record["text"] for record in records("classification")], 270)


@functools.cache
def texts(head: Head = "classification") -> LabelledTexts:
    encode = functools.partial(encode_examples, head=head, classes=CLASSES, sequence_length=LENGTH)
    return encode(records(head), tokenizer(), columns=dataclasses.replace(columns(head), second="")).texts


def model(head: Head = "classification", **changes) -> GptForLabels:
    sizes = {"vocab_size": tokenizer().vocab_size, "maximum_positions": LENGTH}
    return GptForLabels(dataclasses.replace(CONFIG, **sizes, **changes), head, 3 if head == "classification" else 1)


@functools.cache
def params(head: Head = "classification"):
    fresh = initial_label_params(model(head))(jax.random.key(1))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), fresh)


def test_texts_are_framed_by_the_end_piece():
    end = tokenizer().end_id
    for tokens in texts().tokens:
        assert (tokens[0], tokens[-1]) == (end, end)
        assert end not in tokens[1:-1]
    pair = encode_examples(
        [{"text": "w1", "second": "w2", "label": "low"}],
        tokenizer(),
        head="classification",
        columns=Columns(second="second"),
        classes=CLASSES,
        sequence_length=LENGTH,
    )
    assert (pair.texts.tokens[0] == end).sum() == 3


@pytest.mark.slow
def test_packing_changes_neither_loss_nor_gradient():
    drawn = range(20)
    loss = jax.value_and_grad(labelling_loss(model(), train=False), has_aux=True)
    packed = pack_texts(texts(), np.array(drawn), LENGTH, 1)
    assert (packed["texts"] >= 0).sum(axis=1).max() > 1
    (found, _), gradient = jax.jit(loss)(params(), packed, jax.random.key(0))

    @jax.jit
    def logits_alone(params, tokens, length):
        segments = (jnp.arange(LENGTH) < length).astype(jnp.int32)[None]
        return model().apply({"params": params}, tokens[None], segments, segments)[0]  # pyright: ignore

    def loss_alone(params):
        rows = np.stack([np.pad(texts().tokens[i], (0, LENGTH - len(texts().tokens[i]))) for i in drawn])
        lengths = jnp.array([len(texts().tokens[i]) for i in drawn])
        logits = jax.vmap(logits_alone, in_axes=(None, 0, 0))(params, jnp.asarray(rows), lengths)
        labels = jnp.array([texts().labels[i] for i in drawn])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))

    expected, gradient_alone = jax.jit(jax.value_and_grad(loss_alone))(params())
    close(found, expected)
    jax.tree.map(close, gradient, gradient_alone)


@pytest.mark.slow
def test_the_peer_reads_the_same_token(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    gpt, lengths = random_params(), (5, 9, 1, 7)
    write_hf(tmp_path, CONFIG, gpt)
    kernel = np.random.default_rng(2).standard_normal((CONFIG.width, 3)).astype(np.float32)
    tokens, valid = padded(random_tokens(4, 9) % 53, lengths, "right", 53)  # 53 stands at padding alone
    peer = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path, num_labels=3, pad_token_id=53).eval()
    with torch.no_grad():
        peer.score.weight.copy_(torch.tensor(kernel.T))
        expected = peer(torch.tensor(np.asarray(tokens)).long(), attention_mask=torch.tensor(np.asarray(valid))).logits
    ours = {"gpt": gpt, "classifier": {"dense": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(3)}}}
    segments = valid.astype(jnp.int32)
    found: Any = GptForLabels(CONFIG, "classification", 3).apply({"params": ours}, tokens, segments, segments)
    close(found, expected.numpy(), atol=1e-5)


@pytest.fixture
def folder(tmp_path):
    """Of a GPT, as `transformers` keeps it, and labelled texts."""
    write_hf(tmp_path / "gpt", model().config, initial_label_params(model())(jax.random.key(0))["gpt"])
    tokenizer().save(tmp_path / "gpt")
    for name, seed in (("train", 0), ("validation", 1)):
        lines = [json.dumps(record) for record in records("classification", 40, seed)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def arguments(folder, *more):
    data = [f"--{flag}=jsonl:{folder}/{name}.jsonl" for flag, name in FILES.items()]
    return [*data, f"--init=hf:{folder}/gpt", f"--workdir={folder}/run", f"--sequence_length={LENGTH}", *more]


@pytest.mark.slow
def test_from_a_folder_of_the_peer_to_labels(folder, capsys):
    assert finetune.main(arguments(folder, "--epochs=2", "--global_batch_size=8")) == 0
    assert "fresh: classifier" in capsys.readouterr().out
    assert evaluate.main([f"--init={folder}/run", f"--data=jsonl:{folder}/validation.jsonl"]) == 0
    assert predict.main([f"--init={folder}/run", "w1 w2 w3"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["label"] in CLASSES
    # From one task to the next.
    again = [flag for flag in arguments(folder, "--epochs=1", "--global_batch_size=8") if "init" not in flag]
    assert finetune.main([*again, f"--init={folder}/run", f"--workdir={folder}/next"]) == 0
    with pytest.raises(UserError, match="is a GPT, which has no state"):
        embed.main(
            [
                f"--init={folder}/run",
                f"--data=text:{folder}/train.jsonl",
                f"--output={folder}/v.npy",
                "--sequence_length=32",
            ]
        )
    with pytest.raises(UserError, match="a GPT that labels texts, for which there is no export yet"):
        convert.main([f"{folder}/run", f"hf:{folder}/out"])


def test_what_a_gpt_cannot_do_is_said(folder):
    with pytest.raises(UserError, match="--task=token: a GPT cannot label each token"):
        finetune.main(arguments(folder, "--task=token"))
