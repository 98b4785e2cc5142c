"""`--check_curve`: whether a run, finished or under way, learns as the default run is known to; nothing is trained."""

import os

import jax

from bert_jax.config import BertPretraining
from bert_jax.corpus_report import corpus_figures
from bert_jax.curve_causes import found_causes, symptoms, usual_causes
from bert_jax.diagnosis import Finding, corpus_findings, training_findings
from bert_jax.prepared_text import corpus_folder
from bert_jax.pretraining import identity
from bert_jax.reference_curve import Judgement, changed_recipe, check_comparable, judge, load_curve
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.errors import UserError
from core_jax.workdir import read_config, read_records
from experiments.console import format_value, print_table, say
from experiments.results import installed_versions

OUTSIDE = 1  # exit code


def run(workdir: str) -> int:
    """Prints the newest values beside their bands, and what to do about those outside; returns the exit code.

    Args:
      workdir: of the run; its own configuration counts, whatever other flags are given.
    Raises:
      UserError: there is no run, it has hardly begun, or the curve says nothing about its like.
    """
    jax.config.update("jax_platforms", "cpu")  # the run may still hold its devices
    curve, config = load_curve(), read_config(workdir, BertPretraining)
    check_comparable(config, curve)
    judgements = judge(curve, read_records(workdir))
    print_judgements(judgements, len(curve.seeds))
    recipe = changed_recipe(config, curve)
    for name, (ours, theirs) in recipe.items():
        say(f"note: --{name}={ours}, and {theirs} in the reference")
    found = symptoms(judgements, curve)
    if not found:
        say(f"{workdir} is in the band")
        return 0
    say(f"{workdir} is not in the band: {'; '.join(found)}")
    vocabulary, findings = look_at_text(config, workdir)
    causes = found_causes(recipe, curve, vocabulary, installed_versions(), findings)
    if causes:
        say("what is otherwise in this run, the likeliest cause first:")
        print_causes(causes)
    for symptom in found:
        say(f"{'else, usual' if causes else 'usual'} causes where {symptom}, the likeliest first:")
        print_causes(usual_causes(symptom, judgements))
    return OUTSIDE


def print_judgements(judgements: list[Judgement], runs: int) -> None:
    """Prints one table for each split."""
    for split, title in (("train", "training"), ("held_out", "held-out documents")):
        of_split = [one for one in judgements if one.split == split]
        if of_split:
            title = f"{title}, step {of_split[0].step:,}"
            print_table(title, ("", "here", "band", f"mean of {runs} runs", ""), [describe(one) for one in of_split])


def describe(judgement: Judgement) -> tuple[str, ...]:
    """One line of the table."""
    name, band = judgement.name, judgement.band
    value, low, mean, high = (format_value(name, x) for x in (judgement.value, band.low, band.mean, band.high))
    where = "worse" if judgement.is_worse else "better" if judgement.is_better else "in the band"
    return (name.replace("mlm", "MLM").replace("nsp", "NSP").replace("_", " "), value, f"{low} to {high}", mean, where)


def print_causes(causes: list[Finding]) -> None:
    """Prints them numbered."""
    for number, cause in enumerate(causes, 1):
        say(f"  {number}. {cause}")


def look_at_text(config: BertPretraining, workdir: str) -> tuple[str | None, list[Finding]]:
    """The hash of a run's vocabulary, and what its text and settings have that may keep the loss high.

    Returns:
      (None, []) where vocabulary or text are not there any more.
    """
    try:
        tokenizer = load_tokenizer(os.path.join(workdir, "tokenizer"))
        figures = corpus_figures(corpus_folder(config, workdir), tokenizer)
    except (UserError, OSError):
        return None, []
    return identity(tokenizer)["vocabulary"], [*corpus_findings(figures), *training_findings(config, figures)]
