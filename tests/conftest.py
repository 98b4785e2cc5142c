"""Eight simulated CPU devices, quick compilation, and every array annotation checked at run time."""

import os

import jax
from jaxtyping import install_import_hook

# Compiles in a quarter of the time, which is most of what tests do. Read when the first device is asked for; commands
# that tests start inherit it.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Must run before the first import of the packages; nothing else in the tests switches it on.
install_import_hook(["core_jax", "bert_jax", "vit_jax", "experiments"], "beartype.beartype")
