"""Eight simulated CPU devices, and every array annotation checked at run time."""

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Must run before the first import of the packages; nothing else in the tests switches it on.
install_import_hook(["core_jax", "bert_jax", "vit_jax", "experiments"], "beartype.beartype")
