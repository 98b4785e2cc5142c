"""What `experiments.finetune --task=translation` does: a translator learns from sentence pairs.

Type the same command again and it goes on where it stopped.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from bert_jax import parallel_texts
from bert_jax.parallel_texts import Pairs
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.translation_config import PRESETS, Translation, TranslationConfig
from bert_jax.translation_scores import TranslationScores, score_translations
from core_jax import distributed
from core_jax.atomic_files import write_atomically
from core_jax.beam_search import BeamSettings
from core_jax.config import adopt_fields, require, to_json
from core_jax.run_lock import lock
from core_jax.sharding import parse_mesh
from core_jax.workdir import check_shared, claim_workdir, filling, read_config
from experiments import translation_training
from experiments.console import StopRequest, parse_flags, print_table, report, say, value_of
from experiments.translation_training import Run

TASK = "translation"
DESCRIPTION = f"Trains a translator on sentence pairs. Presets: {', '.join(PRESETS)}"
ARCHITECTURE = (
    *("width", "depth", "encoder_depth", "heads", "mlp_width", "vocab_size", "maximum_positions", "norm"),
    *("norm_epsilon", "gelu", "scale_embedding", "pad_id", "start_id", "end_id"),
)


def main(arguments: list[str]) -> int:
    """Trains, translates, scores and reports; returns the exit code."""
    preset = value_of("--preset", arguments) or "translation-tiny"
    require(preset in PRESETS, f"--preset={preset}: expected one of {', '.join(PRESETS)}")
    config = parse_flags(Translation, arguments, DESCRIPTION, PRESETS[preset])
    if config.init:
        theirs = read_config(config.init, Translation).model
        config = adopt_fields(config, {"model": {name: getattr(theirs, name) for name in ARCHITECTURE}}, say)
    workdir = config.tuning.workdir or f"runs/{TASK}"
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
    claim_workdir(workdir, config)


def open_run(config: Translation, workdir: str, mesh: Mesh, stopping: StopRequest) -> Run:
    """Reads the pairs and makes or reads the vocabulary, which is kept in the work folder."""
    sets = parallel_texts.read_pairs(config.pairs, config.tuning.seed)
    folder = os.path.join(workdir, "tokenizer")

    def make_vocabulary() -> None:
        if os.path.isdir(folder):
            return
        if config.init:
            tokenizer = load_tokenizer(os.path.join(config.init, "tokenizer"))
        else:
            tokenizer = parallel_texts.vocabulary(config.pairs, config.model, sets["train"])
        tokenizer.save(folder)

    distributed.first_decides(make_vocabulary)
    tokenizer = load_tokenizer(folder)
    model = parallel_texts.with_vocabulary(config.model, tokenizer)
    longest = config.pairs.sequence_length
    train = parallel_texts.encode_pairs(sets["train"], tokenizer, longest, leave_out=True)
    require(
        len(train.sources) >= config.tuning.global_batch_size,
        f"--data={config.pairs.data} gives {len(train.sources)} pairs of at most --sequence_length={longest} tokens, "
        f"fewer than --global_batch_size={config.tuning.global_batch_size}: give more, or a smaller batch",
    )
    validation = parallel_texts.encode_pairs(sets["validation"], tokenizer, longest, leave_out=False)
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
    found = translate(run.model, params, run.tokenizer, pairs.sources, config, run.mesh)
    answers = {
        "translations": found,
        "copy of the source": pairs.sources,
        "target of the nearest training source": parallel_texts.nearest_targets(run.sets["train"], pairs.sources),
    }
    scores = {title: score_translations(texts, pairs.targets) for title, texts in answers.items()}
    rows = [(title, f"{value.bleu:.1f}", f"{value.chrf:.1f}") for title, value in scores.items()]
    print_table(f"{len(pairs):,} pairs of {name}", ("", "BLEU", "chrF"), rows)
    say(f"BLEU {scores['translations'].bleu_signature}\nchrF {scores['translations'].chrf_signature}")
    for place in range(min(3, len(pairs))):
        say(f"\n  {pairs.sources[place]}\n  -> {found[place]}\n  reference: {pairs.targets[place]}")
    keep(run.workdir, name, pairs, found, scores)
    say(f'next: python -m experiments.predict --init={run.workdir} "{pairs.sources[0]}"')


def keep(workdir: str, name: str, pairs: Pairs, found: Sequence[str], scores: dict[str, TranslationScores]) -> None:
    """Writes scores and translations into the work folder."""
    if jax.process_index() != 0:
        return
    lines = zip(pairs.sources, found, pairs.targets, strict=True)
    records = [dict(zip(("source", "translation", "reference"), line, strict=True)) for line in lines]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_atomically(epath.Path(workdir) / "translations.jsonl", text)
    values = {title: dataclasses.asdict(value) for title, value in scores.items()}
    summary = {"set": name, "pairs": len(pairs), "scores": values}
    write_atomically(epath.Path(workdir) / "translation_scores.json", json.dumps(summary, indent=2) + "\n")


def translate(
    model: TranslationConfig,
    params: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    config: Translation,
    mesh: Mesh,
) -> list[str]:
    """Translations of texts; those longer than the model reads are cut."""
    sources = parallel_texts.encode_sources(texts, tokenizer, config.pairs.sequence_length)
    search = BeamSettings(beams=config.beams, length_penalty=config.length_penalty)
    rows = min(32, -(-len(texts) // mesh.size) * mesh.size)
    translator = translation_training.batch_translator(model, params, search, mesh, rows)
    return [tokenizer.decode(tokens) for tokens in translator.translate(sources)]
