"""The original checkpoints of https://github.com/google-research/bert. The only file that needs TensorFlow."""

import pathlib
import re
from collections.abc import Callable

import numpy as np

from bert_jax.peer_config import from_peer_config
from bert_jax.tokenizer_files import load_tokenizer
from bert_jax.weights import Imported, to_params
from core_jax.errors import UserError
from core_jax.safetensors_files import Tensors

NOT_WEIGHTS = re.compile(r"(^|/)(adam_m|adam_v|lamb_m|lamb_v|global_step)$")
TOP_LEVEL = {  # classes of a fine-tuned one, and the head of next sentence prediction
    "output_weights": "classifier.weight",
    "output_bias": "classifier.bias",
    "cls/squad/output_weights": "qa_outputs.weight",
    "cls/squad/output_bias": "qa_outputs.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
    "cls/predictions/output_bias": "cls.predictions.bias",
}


def load_tensorflow(prefix: str) -> dict[str, np.ndarray]:
    """All variables of a TensorFlow checkpoint by name.

    Args:
      prefix: such as uncased/bert_model.ckpt, for bert_model.ckpt.index and its data beside it.
    Raises:
      UserError: TensorFlow is not installed, or the checkpoint is damaged.
    """
    try:
        import tensorflow  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
    except ImportError as error:
        raise UserError(
            f"tf:{prefix} needs TensorFlow, which is not installed ({error}). Type: pip install -e '.[prepare]'"
        ) from error
    try:
        reader = tensorflow.train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tensorflow.errors.OpError, ValueError) as error:
        raise UserError(f"tf:{prefix} cannot be read ({error}): fetch it again") from error


def read_tf(prefix: str, load: Callable[[str], dict[str, np.ndarray]] = load_tensorflow) -> Imported:
    """Reads an original checkpoint, with bert_config.json and vocab.txt beside it. Its GELU is the tanh approximation.

    Args:
      prefix: such as uncased/bert_model.ckpt.
      load: reads the variables.
    Returns:
      All that is there, without the moments of its optimizer.
    Raises:
      UserError: a file is missing or damaged, or its tensors are not those of its sizes.
    """
    path = pathlib.Path(prefix).expanduser()
    if not path.with_name(path.name + ".index").exists():
        raise UserError(
            f"tf:{prefix}: no {path}.index; expected the prefix of a checkpoint, such as tf:uncased/bert_model.ckpt"
        )
    config = from_peer_config(path.with_name("bert_config.json"), original=True)
    tokenizer = load_tokenizer(path.with_name("vocab.txt"))
    params = to_params(to_peer_tensors(load(str(path))), config, f"tf:{prefix}")
    return Imported(config, tokenizer, params)


def to_peer_tensors(variables: dict[str, np.ndarray]) -> Tensors:
    """Variables of the original under the names, and in the shapes, that `transformers` gives them."""
    named: Tensors = {}
    for name, value in variables.items():
        if NOT_WEIGHTS.search(name):
            continue
        theirs = TOP_LEVEL.get(name)
        if theirs is None:
            theirs = re.sub(r"layer_(\d+)", r"layer.\1", name).replace("/", ".")
            if name.endswith("/kernel"):
                theirs, value = theirs.removesuffix("kernel") + "weight", value.T
            elif name.endswith("_embeddings"):
                theirs += ".weight"
        named[theirs] = np.asarray(value, np.float32)
    return named
