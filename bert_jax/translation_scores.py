"""How good translations are, by sacrebleu: the scores that others report, with what they were computed by."""

import dataclasses
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


@dataclasses.dataclass(frozen=True)
class TranslationScores:
    """Of all translations together, 0 to 100."""

    bleu: float
    chrf: float
    bleu_signature: str  # says how it was computed: scores with another one are not comparable
    chrf_signature: str


def score_translations(found: Sequence[str], references: Sequence[str]) -> TranslationScores:
    """SacreBLEU and chrF.

    Args:
      found: translations, with no token of a model in them.
      references: one of each.
    Source: Post 2018, https://arxiv.org/abs/1804.08771; Popović 2015, https://aclanthology.org/W15-3049
    """
    bleu, chrf = BLEU(), CHRF()
    found, theirs = list(found), [list(references)]
    values = [metric.corpus_score(found, theirs).score for metric in (bleu, chrf)]  # a signature is known after it
    return TranslationScores(values[0], values[1], str(bleu.get_signature()), str(chrf.get_signature()))
