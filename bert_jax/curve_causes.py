"""Why a run is not in the band of the reference curve: what its values look like, and the usual causes of that.

Causes come in order of likelihood. First is what was found in this very run, since it is known to be otherwise than in
the reference; then what remains where settings, text and vocabulary are those of the reference. That order is our
judgement. In the threads that `diagnosis.py` names, in google-research/bert, issues 180 and 649, in NVIDIA
DeepLearningExamples, issue 184, and in codertimo/BERT-pytorch, issue 32, people had repeated text, batches that were
too small, rates that were too high, or the wrong labels.
"""

from collections.abc import Mapping, Sequence

from bert_jax.diagnosis import Finding
from bert_jax.reference_curve import Judgement, ReferenceCurve

NEAR_UNIGRAM = 0.97  # of the loss of word frequencies; a model that uses context is soon below
NEAR_CHANCE = 0.55  # accuracy of next sentence prediction; lengths of pairs alone give as much
NARROW_MISS = 0.5  # of the width from the mean of a band to its edge
LIKELY = ("learning_rate", "warmup_steps", "schedule", "clip_norm", "optimizer", "initializer_range")  # first of all

CHANCE = Finding(
    "it lies just outside",
    "about one value in a hundred does so by chance",
    "Go on and look again, or type another --seed with another --workdir",
)
PRECISION = Finding(
    "precision or devices",
    "the reference was computed in float32 on CPUs; bfloat16 and flags for fast arithmetic round more",
    "Type --dtype=float32 with another --workdir, without XLA_FLAGS",
)
OPTIMIZATION = Finding(
    "updates that are too large, too small, or miss some parameters",
    "gradient_norm in metrics.jsonl then grows, or is near 0",
    "Type python -m pytest tests/test_optimizers.py tests/test_train.py",
)
LABELS = Finding(
    "labels that are not those of the hidden tokens",
    "then only the frequencies of words can be learnt",
    "Type python -m pytest tests/test_masking.py tests/test_pretraining_data.py",
)
LEAK = Finding(
    "hidden tokens can be seen",
    "labels in the inputs, or [MASK] not put in their place, make the task easy",
    "Type python -m pytest tests/test_masking.py tests/test_pretraining_data.py",
)
CONTEXT = Finding(
    "no token sees the others",
    "attention over the wrong tokens, or positions that are all alike, leave a table of frequencies",
    "Type python -m pytest tests/test_attention.py tests/test_transformer.py tests/test_bert.py",
)
OVERLAP = Finding(
    "held-out documents that were trained on",
    "copies, and what nearly is one, are answered by heart",
    "Type python -m pytest tests/test_corpus.py, and prepare the text again in another --workdir",
)
BY_HEART = Finding(
    "training text that is learnt by heart",
    "little text, or the same in every epoch, lowers the loss of training and raises that of held-out text",
    "Type python -m pytest tests/test_pretraining_data.py: masks and pairs are drawn anew in every epoch",
)
SCORING = Finding(
    "scoring that is not like training",
    "dropout left on, other masks, or padding that counts",
    "Type python -m pytest tests/test_pretrain.py, then python -m experiments.evaluate --init=WORKDIR",
)
PAIRS = Finding(
    "pairs that cannot be told apart",
    "lost borders of documents, or labels that are not those of the pairs",
    "Type python -m pytest tests/test_sentence_pairs.py tests/test_corpus.py",
)
POOLER = Finding(
    "a pooler or type embeddings that do not learn",
    "large first steps saturate the pooler's tanh, and it seldom recovers",
    "Type a lower --learning_rate or more --warmup_steps with another --workdir",
)
EASY_PAIRS = Finding(
    "pairs that are told apart without their sense",
    "lengths, cut-off ends, or random second sentences from too few documents give them away",
    "Type python -m pytest tests/test_sentence_pairs.py",
)
USUAL = {  # by what the values look like, the likeliest first
    "training has diverged": (OPTIMIZATION, PRECISION),
    "masked language modelling is no better than the frequencies of words": (LABELS, CONTEXT, OPTIMIZATION),
    "masked language modelling learns, but less than it should": (CONTEXT, OPTIMIZATION, PRECISION, LABELS),
    "masked language modelling is better than it can be": (LEAK, OVERLAP, BY_HEART),
    "training is as expected, held-out text is worse": (BY_HEART, SCORING),
    "next sentence prediction is no better than a fair coin": (PAIRS, POOLER, CONTEXT),
    "next sentence prediction learns, but less than it should": (PAIRS, OPTIMIZATION, PRECISION),
    "next sentence prediction is better than it can be": (EASY_PAIRS, OVERLAP, BY_HEART),
}
DIVERGED, UNIGRAM, SLOW, TOO_GOOD, GAP, AT_CHANCE, SLOW_PAIRS, TOO_GOOD_PAIRS = USUAL


def symptoms(judgements: Sequence[Judgement], curve: ReferenceCurve) -> list[str]:
    """What the values that are outside look like: keys of USUAL, the gravest first; none where all are in the band.

    Args:
      judgements: of `judge`, both splits.
      curve: that they were judged by.
    """
    training = {one.name: one for one in judgements if one.split == "train"}
    first = curve.train[min(curve.train)]["loss"]
    if training["loss"].is_worse and not training["loss"].value <= first.high:
        return [DIVERGED]
    mlm, pairs = _about(judgements, "mlm"), _about(judgements, "nsp")
    if not mlm and not pairs:  # the sum of both can be outside where each is still inside
        mlm = _about(judgements, "loss")
    found = []
    if any(one.is_worse for one in mlm):
        flat = training["mlm_loss"].is_worse and training["mlm_loss"].value > NEAR_UNIGRAM * curve.unigram_loss
        found.append(UNIGRAM if flat else GAP if _only_held_out(mlm) else SLOW)
    if any(one.is_better for one in mlm):
        found.append(TOO_GOOD)
    if any(one.is_worse for one in pairs):
        worse = {one.split for one in pairs if one.is_worse}
        accuracies = [one.value for one in judgements if one.name == "nsp_accuracy" and one.split in worse]
        found.append(AT_CHANCE if min(accuracies) < NEAR_CHANCE else GAP if _only_held_out(pairs) else SLOW_PAIRS)
    if any(one.is_better for one in pairs):
        found.append(TOO_GOOD_PAIRS)
    return list(dict.fromkeys(found))


def _about(judgements: Sequence[Judgement], task: str) -> list[Judgement]:
    return [one for one in judgements if one.excess and one.name.startswith(task)]


def _only_held_out(judgements: Sequence[Judgement]) -> bool:
    return all(one.split == "held_out" for one in judgements if one.is_worse)


def usual_causes(symptom: str, judgements: Sequence[Judgement]) -> list[Finding]:
    """The causes that remain where nothing was found in the run itself, the likeliest first.

    Args:
      symptom: of `symptoms`.
      judgements: it was seen in.
    """
    outside = [abs(one.excess) for one in judgements if one.excess]
    chance = [CHANCE] if len(outside) <= 2 and max(outside) < NARROW_MISS else []
    return [*chance, *USUAL[symptom]]


def found_causes(
    recipe: Mapping[str, tuple[object, object]],
    curve: ReferenceCurve,
    vocabulary: str | None,
    versions: Mapping[str, str],
    findings: Sequence[Finding],
) -> list[Finding]:
    """What is otherwise in this run than in the reference, the likeliest cause first.

    Args:
      recipe: settings of `changed_recipe`.
      curve: the reference.
      vocabulary: hash of the run's pieces; None where it cannot be read.
      versions: of the libraries here.
      findings: of `bert_jax.diagnosis`, about text and settings.
    """
    known = {name: finding for name in recipe for finding in findings if finding.found.startswith(f"--{name}=")}
    order = sorted(recipe, key=lambda name: LIKELY.index(name) if name in LIKELY else len(LIKELY))
    settings = [
        Finding(
            f"--{name}={recipe[name][0]}, where the reference has {recipe[name][1]}",
            known[name].reason if name in known else "another recipe takes another course",
            f"Type --{name}={recipe[name][1]} with another --workdir",
        )
        for name in order
    ]
    other_text = Finding(
        "the vocabulary is not that of the reference",
        "other text, or another version of tokenizers, gives other pieces, and losses count pieces",
        "Type pip install -e '.[sample]' and start in another --workdir",
    )
    changed = [
        f"{name} {versions[name]} ({version})"
        for name, version in curve.versions.items()
        if name in versions and versions[name] != version
    ]
    other_versions = Finding(
        f"other versions than the reference's: {', '.join(changed)}",
        "seldom a cause, as results are the same but for rounding",
        "Install the reference's",
    )
    text = [other_text] if vocabulary not in (None, curve.vocabulary) else []
    others = [finding for finding in findings if finding not in known.values()]
    return [*settings, *text, *others, *([other_versions] if changed else [])]
