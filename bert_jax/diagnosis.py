"""Why a loss of masked language modelling may stay near 7, as far as text and settings tell before any training.

A model that only knows how frequent words are has a loss of 6.5 to 7.5 nats with the usual vocabularies. The causes
here are those that people found who were stuck there (google-research/bert, issue 746; huggingface/transformers, issues
3983 and 4449; NVIDIA/Megatron-LM, issue 29; codertimo/BERT-pytorch, issue 49), and some that follow from the recipe of
the original. They are warnings: whoever knows better goes on.
"""

from typing import NamedTuple

from bert_jax.config import BertPretraining
from bert_jax.corpus_report import CorpusFigures

MOST_REPEATED = 0.3  # share of sentences
MOST_DUPLICATES = 0.3  # share of documents
FEWEST_TOKENS = 300_000  # a quarter of the sample text, with which a small model just begins to use context
FEWEST_DOCUMENTS = 100
MOST_UNKNOWN = 0.01  # share of tokens; a vocabulary that fits has 0.001 or less
MOST_PIECES_PER_WORD = 2.0  # a vocabulary that fits has 1.1 to 1.5
LEAST_USED_VOCABULARY = 0.5
FEWEST_PREDICTIONS = 256  # a step; the original BERT has 5,000
MASK_PROBABILITIES = (0.08, 0.5)  # 0.15 in the original, up to 0.4 in Wettig et al. 2022, arxiv.org/abs/2202.08005
WIDE = 512  # models from this width on bear lower rates only
HIGHEST_RATES = {"adamw": (5e-3, 2e-3), "lamb": (2e-2, 2e-2)}  # of narrow and of wide models
LOWEST_RATE = 1e-5


class Finding(NamedTuple):
    """Something that may keep a model from learning."""

    found: str
    reason: str  # why it matters
    advice: str  # what to type instead

    def __str__(self) -> str:
        return f"{self.found}: {self.reason}. {self.advice}"


def corpus_findings(figures: CorpusFigures, *, in_sentences: bool = True) -> list[Finding]:
    """What in a text may keep the loss high, whatever the model.

    Args:
      figures: of the corpus.
      in_sentences: whether pairs of sentences are made of it, as for BERT; documents for GPT stay whole.
    """
    return [*_repetition(figures), *_amount(figures), *(_pairs(figures) if in_sentences else []), *_vocabulary(figures)]


def _repetition(figures: CorpusFigures) -> list[Finding]:
    findings = []
    all_documents = figures.documents + figures.exact_duplicates
    if figures.repeated_sentence_share > MOST_REPEATED:
        findings.append(
            Finding(
                f"{figures.repeated_sentence_share:.0%} of the sentences had come before",
                "repeated lines (menus, licences, headings) are learnt by heart, and little else is",
                "Remove lines that occur in many documents from the text, and prepare it again",
            )
        )
    if figures.exact_duplicates > MOST_DUPLICATES * all_documents:
        findings.append(
            Finding(
                f"{figures.exact_duplicates:,} of {all_documents:,} documents are copies of others",
                "they are left out, so that there is less text than it seems",
                "Look at how the text was put together; more epochs do not replace more text",
            )
        )
    if figures.near_duplicates > MOST_DUPLICATES * figures.documents:
        findings.append(
            Finding(
                f"{figures.near_duplicates:,} of {figures.documents:,} documents are nearly the same as another",
                "what they share is learnt by heart, and held-out scores look better than they are",
                "Keep one of each kind, and prepare the text again",
            )
        )
    return findings


def _amount(figures: CorpusFigures) -> list[Finding]:
    findings = []
    if figures.tokens < FEWEST_TOKENS:
        findings.append(
            Finding(
                f"the text has {figures.tokens:,} tokens",
                f"with fewer than {FEWEST_TOKENS:,} a model hardly learns more than how frequent words are",
                "Give more text; --data=sample has 1.3 million tokens, the original BERT had 4 billion",
            )
        )
    return findings


def _pairs(figures: CorpusFigures) -> list[Finding]:
    findings = []
    if figures.documents < FEWEST_DOCUMENTS:
        findings.append(
            Finding(
                f"the text has {figures.documents:,} documents",
                "random second sentences come from a few documents only, which can be told by heart",
                "In text:FILES blank lines end a document; put them where the subject changes",
            )
        )
    if figures.single_sentence_share > 0.5:
        findings.append(
            Finding(
                f"{figures.single_sentence_share:.0%} of the documents have a single sentence",
                "no pair can be made of those, so they serve as random second sentences only",
                "Join lines that belong together: only blank lines end a document in text:FILES",
            )
        )
    return findings


def _vocabulary(figures: CorpusFigures) -> list[Finding]:
    findings = []
    other = "Let one be trained from the text with --tokenizer=wordpiece"
    if figures.unknown_share > MOST_UNKNOWN:
        findings.append(
            Finding(
                f"{figures.unknown_share:.1%} of the tokens are unknown to the vocabulary",
                "the model learns to predict [UNK]; the vocabulary is of another language or kind of text",
                other,
            )
        )
    if figures.pieces_per_word is not None and figures.pieces_per_word > MOST_PIECES_PER_WORD:
        findings.append(
            Finding(
                f"words are cut into {figures.pieces_per_word:.1f} pieces on average",
                "the vocabulary does not fit the text, and pieces of letters carry little meaning",
                f"{other}, or a larger --vocab_size",
            )
        )
    if figures.used_vocabulary < LEAST_USED_VOCABULARY * figures.vocabulary:
        findings.append(
            Finding(
                f"{figures.used_vocabulary:,} of the vocabulary's {figures.vocabulary:,} pieces occur in the text",
                "the others cost memory and time and are never learnt",
                f"{other} and --vocab_size={max(64, figures.used_vocabulary // 64 * 64)} or less",
            )
        )
    return findings


def training_findings(config: BertPretraining, figures: CorpusFigures) -> list[Finding]:
    """What in the settings of a run may keep its loss high.

    Args:
      config: of the run.
      figures: of its text.
    """
    return [*_masking(config, figures), *_learning_rate(config)]


def _masking(config: BertPretraining, figures: CorpusFigures) -> list[Finding]:
    findings, text, rows = [], config.text, config.training.global_batch_size
    predictions = rows * text.sequence_length * text.mask_probability
    low, high = MASK_PROBABILITIES
    if predictions < FEWEST_PREDICTIONS:
        larger = rows * -(-FEWEST_PREDICTIONS // max(1, int(predictions)))
        findings.append(
            Finding(
                f"a step predicts {predictions:.0f} tokens at most",
                "so few give a gradient that is mostly noise, and the loss stays where word frequencies put it",
                f"Type --global_batch_size={larger} or more; --accumulation_steps saves memory",
            )
        )
    if not low <= text.mask_probability <= high:
        findings.append(
            Finding(
                f"--mask_probability={text.mask_probability}",
                f"below {low} there is little to learn from, above {high} little context to learn it with",
                "Type --mask_probability=0.15",
            )
        )
    if 4 * figures.document_lengths["0.5"] < text.sequence_length and not text.packing:
        findings.append(
            Finding(
                f"half of the documents have {figures.document_lengths['0.5']} tokens or fewer, in rows of "
                f"{text.sequence_length}",
                "most of each row is padding, and a step learns from few tokens",
                "Type --packing=True, or a shorter --sequence_length",
            )
        )
    return findings


def _learning_rate(config: BertPretraining) -> list[Finding]:
    findings, optimizer, steps = [], config.optimizer, config.training.steps
    rate, warmup = optimizer.learning_rate, optimizer.warmup_steps
    highest = HIGHEST_RATES[optimizer.optimizer][config.model.width >= WIDE]
    if rate > highest:
        findings.append(
            Finding(
                f"--learning_rate={rate:g} is very high for {optimizer.optimizer} at a width of {config.model.width}",
                "the loss falls to that of word frequencies and stays there, or becomes no number",
                f"Type --learning_rate={highest:g} or less; the original BERT has 1e-4 at a batch of 256",
            )
        )
    if rate < LOWEST_RATE and not config.init:
        findings.append(
            Finding(
                f"--learning_rate={rate:g} is very low for training from scratch",
                "such rates are for fine-tuning",
                "Type --learning_rate=1e-4",
            )
        )
    if 2 * warmup > steps:
        findings.append(
            Finding(
                f"the warm-up of {warmup:,} steps takes most of the {steps:,} steps",
                f"the learning rate of {rate:g} is hardly or never reached",
                f"Type --warmup_steps={max(1, steps // 10)}",
            )
        )
    if not warmup and rate >= 1e-4 and config.model.norm == "post":
        findings.append(
            Finding(
                "there is no warm-up",
                "a Transformer with LayerNorm behind its branches seldom recovers from the first large steps",
                f"Type --warmup_steps={max(1, steps // 100)}",
            )
        )
    return findings
