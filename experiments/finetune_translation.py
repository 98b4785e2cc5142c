"""What `experiments.finetune --task=translation` does: a translator learns from sentence pairs.

Type the same command again and it goes on where it stopped.
"""

import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bert_jax import bert_encoders, parallel_texts, starting_weights
from bert_jax.parallel_texts import Pairs
from bert_jax.preparation import save_tokenizer
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.translation_config import PRESETS, Translation
from bert_jax.translation_scores import TranslationScores, score_translations
from bert_jax.translator import BatchTranslator
from core_jax import distributed
from core_jax.atomic_files import write_atomically
from core_jax.config import adopt_fields, require, to_json
from core_jax.run_lock import lock
from core_jax.sharding import parse_mesh
from core_jax.workdir import check_shared, claim_workdir, filling
from experiments import results, translation_training
from experiments.console import StopRequest, parse_flags, print_table, report, say, value_of
from experiments.results import count_parameters
from experiments.trained_translators import ARCHITECTURE, batch_translator, check_start, open_vocabulary, read_config_of
from experiments.translation_training import Run

TASK = "translation"
TITLES = {"": "translations", "copy_": "copy of the source", "nearest_": "target of the nearest training source"}
DESCRIPTION = f"Trains a translator on sentence pairs. Presets: {', '.join(PRESETS)}"


def main(arguments: list[str]) -> int:
    """Trains, translates, scores and reports; returns the exit code."""
    preset = value_of("--preset", arguments) or "translation-tiny"
    require(preset in PRESETS, f"--preset={preset}: expected one of {', '.join(PRESETS)}")
    config = parse_flags(Translation, arguments, DESCRIPTION, PRESETS[preset])
    if config.init:
        theirs = read_config_of(config.init).model
        config = adopt_fields(config, {"model": {name: getattr(theirs, name) for name in ARCHITECTURE}}, say)
    config = bert_encoders.adopt_encoder(config, say)
    workdir = config.tuning.workdir or f"runs/{TASK}"
    if config.plan:
        return translation_training.plan(config, workdir)
    distributed.initialise(config.tuning.silence_seconds, report)
    distributed.require_same("configuration", to_json(config))
    mesh = parse_mesh(config.tuning.mesh)
    distributed.first_decides(lambda: check(config, workdir))
    check_shared(workdir)
    with StopRequest().listening() as stopping, lock(workdir), filling(workdir, config):
        run = open_run(config, workdir, mesh, stopping)
        params = translation_training.train(run)
        if params is None or stopping():
            say("stopped; all is saved: type the same command again to go on")
            return stopping.exit_code
        show(run, params)
    return 0


def check(config: Translation, workdir: str) -> None:
    """Refuses what cannot work before any text is read."""
    parallel_texts.check_pairs(config.pairs)
    if config.init:
        check_start(config.init)
    starting_weights.check_init(config.init_encoder)
    claim_workdir(workdir, config)


def open_run(config: Translation, workdir: str, mesh: Mesh, stopping: StopRequest) -> Run:
    """Reads the pairs and makes or reads the vocabulary, which is kept in the work folder."""
    sets = parallel_texts.read_pairs(config.pairs, config.tuning.seed)
    folder = os.path.join(workdir, "tokenizer")

    def make_vocabulary() -> None:
        if os.path.isdir(folder):
            return
        if config.init:
            tokenizer = open_vocabulary(config.init)
        elif config.init_encoder:
            tokenizer = bert_encoders.open_vocabulary(config.init_encoder)
        else:
            tokenizer = parallel_texts.vocabulary(config.pairs, config.model, sets["train"])
        save_tokenizer(tokenizer, folder)

    distributed.first_decides(make_vocabulary)
    tokenizer = load_tokenizer(folder)
    model = parallel_texts.with_vocabulary(config.model, tokenizer)
    longest = config.pairs.sequence_length
    encode = functools.partial(
        parallel_texts.encode_pairs, tokenizer=tokenizer, longest=longest, starts=model.starts_sources
    )
    train = encode(sets["train"], leave_out=True)
    require(
        len(train.sources) >= config.tuning.global_batch_size,
        f"--data={config.pairs.data} gives {len(train.sources)} pairs of at most --sequence_length={longest} tokens, "
        f"fewer than --global_batch_size={config.tuning.global_batch_size}: give more, or a smaller batch",
    )
    validation = encode(sets["validation"], leave_out=False)
    say(
        f"{workdir}: {len(train.sources):,} pairs to train on ({train.cut:,} longer than --sequence_length={longest} "
        f"are left out), {len(validation.sources):,} to validate on; {tokenizer.vocab_size:,} pieces of both languages"
    )
    return Run(config, workdir, mesh, stopping, model, tokenizer, train, validation, sets)


def show(run: Run, params: Any) -> None:
    """Translates the pairs that are kept for it, and prints scores beside those of the baselines."""
    config = run.config
    name = "test" if "test" in run.sets else "validation"
    pairs = run.sets[name].first(config.pairs.score_pairs)
    translator = batch_translator(run.model, params, config, run.mesh, len(pairs))
    found = translate(translator, run.tokenizer, pairs.sources, config.pairs.sequence_length)
    answers = {
        "": found,
        "copy_": pairs.sources,
        "nearest_": parallel_texts.nearest_targets(run.sets["train"], pairs.sources),
    }
    scores = {prefix: score_translations(texts, pairs.targets) for prefix, texts in answers.items()}
    rows = [(TITLES[prefix], f"{value.bleu:.1f}", f"{value.chrf:.1f}") for prefix, value in scores.items()]
    print_table(f"{len(pairs):,} pairs of {name}", ("", "BLEU", "chrF"), rows)
    say(f"BLEU {scores[''].bleu_signature}\nchrF {scores[''].chrf_signature}")
    for place in range(min(3, len(pairs))):
        say(f"\n  {pairs.sources[place]}\n  -> {found[place]}\n  reference: {pairs.targets[place]}")
    write_translations(run.workdir, pairs, found)
    sizes = {"train_pairs": len(run.train.sources), f"{name}_pairs": len(pairs), "parameters": count_parameters(params)}
    results.save(run.workdir, summary(scores) | sizes | {"task": TASK, "steps": run.steps}, run.stopwatch)
    say(f'next: python -m experiments.predict --init={run.workdir} "{pairs.sources[0]}"')


def write_translations(workdir: str, pairs: Pairs, found: Sequence[str]) -> None:
    """Writes sources, translations and references into the work folder."""
    if jax.process_index() != 0:
        return
    lines = zip(pairs.sources, found, pairs.targets, strict=True)
    records = [dict(zip(("source", "translation", "reference"), line, strict=True)) for line in lines]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_atomically(epath.Path(workdir) / "translations.jsonl", text)


def summary(scores: dict[str, TranslationScores]) -> dict[str, Any]:
    """Scores for summary.json: of the translations, with their signatures, and of both baselines."""
    values = {f"{prefix}{name}": getattr(score, name) for prefix, score in scores.items() for name in ("bleu", "chrf")}
    return values | {"bleu_signature": scores[""].bleu_signature, "chrf_signature": scores[""].chrf_signature}


def translate(translator: BatchTranslator, tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> list[str]:
    """Translations of texts; those longer than `longest` tokens are cut."""
    sources = parallel_texts.encode_sources(texts, tokenizer, longest, starts=translator.config.starts_sources)
    return [tokenizer.decode(tokens) for tokens in translator.translate(sources)]
