"""A GPT learns answers: of them alone is the loss, packed or not, and prompts are put as they were learnt."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.gpt import Gpt
from bert_jax.gpt_answers import PackedAnswers, encode_pairs, read_pairs
from bert_jax.gpt_config import AnswerSource
from bert_jax.gpt_tasks import next_token_loss
from bert_jax.gpt_weights import write_hf
from bert_jax.tokenizer import ByteLevelBpe
from bert_jax.tokenizer_training import train_byte_level_bpe
from core_jax.errors import UserError
from core_jax.sharding import by_path
from experiments import convert, evaluate, finetune, generate
from tests.tiny_gpt import changed, random_params

LENGTH = 48
SOURCE = AnswerSource(template="Q: {prompt} A:", sequence_length=LENGTH)
PAIRS = [(f"w{number} w{number + 1}", " yes" if number % 3 else " no, not so") for number in range(20)]


@functools.cache
def tokenizer() -> ByteLevelBpe:
    return train_byte_level_bpe([SOURCE.framed(prompt) + answer for prompt, answer in PAIRS], 270)


def model() -> Gpt:
    return Gpt(changed(vocab_size=tokenizer().vocab_size, maximum_positions=LENGTH))


@functools.cache
def params():
    return random_params(model().config)


def rows() -> PackedAnswers:
    encoded = encode_pairs(PAIRS, SOURCE, tokenizer())
    return PackedAnswers(encoded, sequence_length=LENGTH, end_id=tokenizer().end_id, seed=0)


def batch_of(packed: PackedAnswers) -> dict:
    examples = [packed.example(0, index) for index in range(len(packed))]
    return jax.tree.map(lambda *parts: np.stack(parts), *examples)


def test_the_tokens_of_answers_and_their_end_count_alone():
    packed = rows()
    batch, texts = batch_of(packed), []
    for labels, segments, counts in zip(batch["labels"], batch["segments"], batch["weights"]["next"], strict=True):
        assert not counts[segments == 0].any()
        for number in range(1, segments.max() + 1):
            texts.append(tokenizer().decode(labels[(segments == number) & (counts > 0)].tolist()))
    assert sorted(texts) == sorted(f"{answer}<|endoftext|>" for _, answer in PAIRS)
    assert packed.pairs == len(PAIRS) > len(packed)


@pytest.mark.slow
def test_packing_changes_nothing_and_prompts_teach_nothing_by_themselves():
    loss = jax.jit(jax.value_and_grad(next_token_loss(model(), train=False), has_aux=True))
    (found, _), gradient = loss(params(), batch_of(rows()), jax.random.key(0))
    whole = Gpt(model().config)

    def by_hand(params):
        total, count = 0.0, 0
        for pair in encode_pairs(PAIRS, SOURCE, tokenizer()):
            logits = whole.apply({"params": params}, jnp.asarray(pair.ids)[None, :-1])[0]  # pyright: ignore
            logs = jax.nn.log_softmax(logits)[jnp.arange(len(pair.ids) - 1), pair.ids[1:]]
            total, count = total - jnp.sum(logs[pair.prompt :]), count + len(pair.ids) - 1 - pair.prompt
        return total / count

    expected, theirs = jax.value_and_grad(by_hand)(params())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in by_path(theirs).values())
    for name, leaf in by_path(gradient).items():
        np.testing.assert_allclose(leaf, by_path(theirs)[name], rtol=1e-4, atol=1e-5 * largest, err_msg=name)


def test_pairs_that_are_too_long_are_left_out(tmp_path):
    assert not encode_pairs([("w1", " yes" * 100)], SOURCE, tokenizer())
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in PAIRS))
    train, held_out = read_pairs(AnswerSource(data=f"jsonl:{tmp_path}/pairs.jsonl", held_out=0.2))
    assert sorted([*train, *held_out]) == sorted(PAIRS)
    assert len(held_out) == 4


@pytest.fixture
def folder(tmp_path):
    """A GPT of `transformers`, and pairs."""
    write_hf(tmp_path / "gpt", model().config, params(), tokenizer())
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in PAIRS))
    return tmp_path


def arguments(folder, *more):
    flags = [f"--init=hf:{folder}/gpt", f"--data=jsonl:{folder}/pairs.jsonl", f"--workdir={folder}/run"]
    flags += [f"--template={SOURCE.template}", f"--sequence_length={LENGTH}", "--global_batch_size=4", "--mesh=data:2"]
    return ["--task=answers", *flags, "--learning_rate=1e-2", "--warmup_steps=5", "--log_every=10", *more]


@pytest.mark.slow
def test_from_a_folder_of_the_peer_to_answers(folder, capsys):
    more = [f"--validation_data=jsonl:{folder}/pairs.jsonl", "--schedule=constant"]  # learnt by heart
    assert finetune.main(arguments(folder, "--steps=20", *more)) == 0
    before = json.loads((folder / "run" / "summary.json").read_text())["loss"]
    assert finetune.main(arguments(folder, "--steps=200", *more)) == 0  # goes on
    assert json.loads((folder / "run" / "summary.json").read_text())["loss"] < min(before, 0.3)
    assert evaluate.main([f"--init={folder}/run", "--mesh=data:2"]) == 0
    with pytest.raises(UserError, match="global_batch_size=4"):
        evaluate.main([f"--init={folder}/run", "--mesh=data:8"])
    capsys.readouterr()
    assert generate.main([f"--init={folder}/run", "w1 w2", "--max_new_tokens=8"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["text"], line["ending"]) == (" yes", "end")
    assert convert.main([f"{folder}/run", f"hf:{folder}/out"]) == 0
    assert (folder / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--init=",), "--init=: expected a GPT to start from"),
        (("--prompt_column=question",), "question.*there are|no column|lacks"),
        (("--sequence_length=400",), "--sequence_length=400 is longer than the position table"),
    ],
)
def test_mistakes_are_named(folder, flags, message):
    with pytest.raises(UserError, match=message):
        finetune.main(arguments(folder, *flags))


def test_a_template_needs_a_place_for_the_prompt():
    with pytest.raises(UserError, match=r"expected a text with \{prompt\} in it"):
        AnswerSource(template="hello")
