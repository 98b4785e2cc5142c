"""How the parameters of peers are called, beside ours: `transformers`' ViT and DINOv2, timm, google-research."""

import re

from core_jax.peer_names import linear, norm

BLOCK = "vit/encoder/block_#"
FAMILIES = ("vit", "dinov2", "dinov2_with_registers")  # of `transformers`, as its config.json calls them
PROJECTIONS = ("query", "key", "value")


def _embeddings(patch: str, class_token: str, position: str, registers: str) -> dict[str, str]:
    tokens = {"class_token": class_token, "position": position, "registers": registers}
    return linear("vit/embeddings/patch", patch) | {f"vit/embeddings/{ours}": name for ours, name in tokens.items()}


def _projections(ours: str, theirs: str) -> dict[str, str]:
    rows = (linear(f"{ours}/{name}", f"{theirs}.{name}") for name in PROJECTIONS)
    return {path: name for row in rows for path, name in row.items()}


def hf_table(family: str) -> dict[str, str]:
    """The names of `transformers` 4, which 5 still writes.

    Args:
      family: one of `FAMILIES`.
    Returns:
      Rows from our path to their name; # is the number of a layer.
    """
    layer, embeddings = f"{family}.encoder.layer.#", f"{family}.embeddings"
    plain = family == "vit"
    norms = ("layernorm_before", "layernorm_after") if plain else ("norm1", "norm2")
    mlp = ("intermediate.dense", "output.dense") if plain else ("mlp.fc1", "mlp.fc2")
    table = _embeddings(
        f"{embeddings}.patch_embeddings.projection",
        f"{embeddings}.cls_token",
        f"{embeddings}.position_embeddings",
        f"{embeddings}.register_tokens",
    )
    table |= _projections(f"{BLOCK}/attention", f"{layer}.attention.attention")
    table |= linear(f"{BLOCK}/attention/out", f"{layer}.attention.output.dense")
    table |= linear(f"{BLOCK}/mlp/up", f"{layer}.{mlp[0]}") | linear(f"{BLOCK}/mlp/down", f"{layer}.{mlp[1]}")
    for ours, theirs in zip(("attention_norm", "mlp_norm"), norms, strict=True):
        table |= norm(f"{BLOCK}/{ours}", f"{layer}.{theirs}")
    table |= {f"{BLOCK}/attention_scale": f"{layer}.layer_scale1.lambda1"}
    table |= {f"{BLOCK}/mlp_scale": f"{layer}.layer_scale2.lambda1"}
    table |= norm("vit/encoder/final_norm", f"{family}.layernorm")
    return table | linear("representation", f"{family}.pooler.dense") | linear("classifier/dense", "classifier")


def current_hf_name(name: str, family: str) -> str:
    """The name that `hf_table` has for a tensor, which may lack the family's prefix or be called as in memory."""
    name = re.sub(r"(^|\.)layers\.(?=\d+\.)", r"\1encoder.layer.", name)
    name = re.sub(r"attention\.(q|k|v)_proj\.", lambda found: f"attention.attention.{_LETTERS[found[1]]}.", name)
    name = name.replace("attention.o_proj.", "attention.output.dense.")
    if family == "vit":
        name = name.replace("mlp.fc1.", "intermediate.dense.").replace("mlp.fc2.", "output.dense.")
    return name if name.startswith((f"{family}.", "classifier.")) else f"{family}.{name}"


_LETTERS = {name[0]: name for name in PROJECTIONS}

_POOL = "vit/pooler"
# Queries, keys and values of a layer stand in one tensor there: see `fused_name`.
TIMM = (
    _embeddings("patch_embed.proj", "cls_token", "pos_embed", "reg_token")
    | _projections(f"{BLOCK}/attention", "blocks.#.attn")
    | norm(f"{BLOCK}/attention/query_norm", "blocks.#.attn.q_norm")
    | norm(f"{BLOCK}/attention/key_norm", "blocks.#.attn.k_norm")
    | linear(f"{BLOCK}/attention/out", "blocks.#.attn.proj")
    | linear(f"{BLOCK}/mlp/up", "blocks.#.mlp.fc1")
    | linear(f"{BLOCK}/mlp/down", "blocks.#.mlp.fc2")
    | norm(f"{BLOCK}/attention_norm", "blocks.#.norm1")
    | norm(f"{BLOCK}/mlp_norm", "blocks.#.norm2")
    | {f"{BLOCK}/attention_scale": "blocks.#.ls1.gamma", f"{BLOCK}/mlp_scale": "blocks.#.ls2.gamma"}
    | norm("vit/encoder/final_norm", "norm")
    | {f"{_POOL}/probe": "attn_pool.latent"}
    | _projections(f"{_POOL}/attention", "attn_pool")
    | linear(f"{_POOL}/attention/out", "attn_pool.proj")
    | norm(f"{_POOL}/norm", "attn_pool.norm")
    | linear(f"{_POOL}/mlp/up", "attn_pool.mlp.fc1")
    | linear(f"{_POOL}/mlp/down", "attn_pool.mlp.fc2")
    | linear("classifier/dense", "head")
)


def fused_name(name: str) -> tuple[str, int]:
    """The tensor of timm's in which one of `TIMM` stands, and which part of it it is."""
    match = re.fullmatch(r"(.*)\.(query|key|value)\.(weight|bias)", name)
    if match is None:
        return name, 0
    part = PROJECTIONS.index(match[2])
    if match[1] == "attn_pool":
        return (f"attn_pool.q.{match[3]}", 0) if part == 0 else (f"attn_pool.kv.{match[3]}", part - 1)
    return f"{match[1]}.qkv.{match[3]}", part


def _as_it_is(ours: str, theirs: str, *leaves: str) -> dict[str, str]:
    return {f"{ours}/{leaf}": f"{theirs}/{leaf}" for leaf in leaves}


def _numpy_block(ours: str, theirs: str, attention: str, norms: dict[str, str], mlp: str) -> dict[str, str]:
    table = {}
    for name in (*PROJECTIONS, "out"):
        table |= _as_it_is(f"{ours}/attention/{name}", f"{theirs}/{attention}/{name}", "kernel", "bias")
    for name, number in (("up", 0), ("down", 1)):
        table |= _as_it_is(f"{ours}/mlp/{name}", f"{theirs}/{mlp}/Dense_{number}", "kernel", "bias")
    for name, number in norms.items():
        table |= _as_it_is(f"{ours}/{name}", f"{theirs}/{number}", "scale", "bias")
    return table


_ATTENTION = "MultiHeadDotProductAttention"
# Names of https://github.com/google-research/big_vision; the older ones of vision_transformer count the parts of a
# layer on: see `vit_jax.numpy_weights`. Arrays are shaped as ours.
NUMPY = (
    _as_it_is("vit/embeddings/patch", "embedding", "kernel", "bias")
    | {"vit/embeddings/class_token": "cls", "vit/embeddings/position": "Transformer/posembed_input/pos_embedding"}
    | _numpy_block(
        BLOCK,
        "Transformer/encoderblock_#",
        f"{_ATTENTION}_0",
        {"attention_norm": "LayerNorm_0", "mlp_norm": "LayerNorm_1"},
        "MlpBlock_0",
    )
    | _as_it_is("vit/encoder/final_norm", "Transformer/encoder_norm", "scale", "bias")
    | {f"{_POOL}/probe": "MAPHead_0/probe"}
    | _numpy_block(_POOL, "MAPHead_0", f"{_ATTENTION}_0", {"norm": "LayerNorm_0"}, "MlpBlock_0")
    | _as_it_is("representation", "pre_logits", "kernel", "bias")
    | _as_it_is("classifier/dense", "head", "kernel", "bias")
)
