"""Which tokens are hidden for masked language modelling, and what is put in their place.

Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3.1 and appendix A.1; whole words as in the 2019
release of https://github.com/google-research/bert.
"""

import numpy as np
from jaxtyping import Bool, Int, Int32

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen tokens; the rest stay as they are


def number_of_predictions(maskable: int, probability: float, maximum: int) -> int:
    """How many tokens of a sequence are predicted: a share of the maskable ones, at least one if there are any."""
    return min(max(1, round(maskable * probability)), maximum, maskable)


def mask_tokens(
    tokens: Int32[np.ndarray, " T"],
    maskable: Bool[np.ndarray, " T"],
    rng: np.random.Generator,
    *,
    mask_id: int,
    ordinary_ids: Int32[np.ndarray, " N"],
    continues_word: Bool[np.ndarray, " V"],
    probability: float = 0.15,
    maximum_predictions: int,
    whole_words: bool = False,
) -> tuple[Int32[np.ndarray, " T"], Int32[np.ndarray, " P"], Int32[np.ndarray, " P"]]:
    """Chooses tokens to predict; hides 80 % of them, replaces 10 % by random pieces and leaves 10 %.

    Args:
      tokens: ids of one sequence.
      maskable: where a token may be chosen: not at special tokens.
      rng: where all randomness comes from.
      mask_id: id of [MASK].
      ordinary_ids: ids that a random piece is drawn from.
      continues_word: for each id, whether it goes on with the word before it; used with `whole_words`.
      probability: share of the maskable tokens to predict; at least one is.
      maximum_predictions: how many there may be.
      whole_words: whether words are chosen with all of their pieces; a word that would pass the number is skipped, so
        there may be fewer predictions than otherwise.
    Returns:
      The tokens that the model sees, the positions to predict, ascending, and the original ids there.
    """
    candidates = np.flatnonzero(maskable)
    number = number_of_predictions(len(candidates), probability, maximum_predictions)
    if whole_words:
        positions = _whole_words(candidates, continues_word[tokens[candidates]], number, rng)
    else:
        positions = rng.permutation(candidates)[:number]
    positions = np.sort(positions).astype(np.int32)
    labels = tokens[positions]
    chance = rng.random(len(positions))
    masked = tokens.copy()
    masked[positions[chance < MASK_SHARE]] = mask_id
    randomly = positions[(chance >= MASK_SHARE) & (chance < MASK_SHARE + RANDOM_SHARE)]
    masked[randomly] = ordinary_ids[rng.integers(len(ordinary_ids), size=len(randomly))]
    return masked, positions, labels


def _whole_words(
    candidates: Int[np.ndarray, " M"], continues: Bool[np.ndarray, " M"], number: int, rng: np.random.Generator
) -> Int[np.ndarray, " P"]:
    """Positions of random words, `number` at most."""
    # A piece starts a word, too, where the position before it is a special token or the start of the sequence.
    starts = np.flatnonzero(~continues | (np.diff(candidates, prepend=-2) > 1))
    lengths = np.diff(starts, append=len(candidates))
    length_of, chosen, remaining = lengths.tolist(), np.zeros(len(lengths), bool), number
    for word in rng.permutation(len(lengths)).tolist():
        if length_of[word] <= remaining:
            chosen[word] = True
            remaining -= length_of[word]
        if not remaining:
            break
    return candidates[np.repeat(chosen, lengths)]
