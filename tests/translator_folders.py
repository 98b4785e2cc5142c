"""What holds of a translator's folder of the peer, of whatever kind it is."""

import itertools
import re

import jax
import numpy as np

from core_jax.safetensors_files import FILE
from experiments import convert, translator_conversion


def assert_there_and_back(place, texts, files, capsys):
    """Converted to and fro nothing changes, not a byte of the peer's files, and its library computes the same.

    Args:
      place: whose folder `peer` is a translator of `transformers`; others are made in it.
      texts: that the vocabulary cuts.
      files: names of the peer's files besides its weights and configs.
      capsys: what was printed.
    """
    steps = [f"hf:{place}/peer", f"{place}/run", f"hf:{place}/again", f"{place}/last"]
    for source, target in itertools.pairwise(steps):
        assert convert.main([source, target, "--verify"]) == 0
    differences = re.findall(r"logits\W+(\d\S+)", capsys.readouterr().out)
    assert len(differences) == 3
    assert max(map(float, differences)) < 1e-4
    found = [translator_conversion.read(step) for step in steps]
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, other.params, found[0].params)
        assert other.model == found[0].model
        assert other.tokenizer.encode(texts) == found[0].tokenizer.encode(texts)
    assert convert.main([steps[3], f"hf:{place}/more"]) == 0
    for name in (FILE, "config.json", "generation_config.json", *files):
        assert (place / "again" / name).read_bytes() == (place / "more" / name).read_bytes()
