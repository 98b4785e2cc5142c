"""`--plan`: what a pretraining run would do on a TPU slice that is not here; nothing is trained."""

import dataclasses
import json
import os

import jax
from jaxtyping import PyTree

from bert_jax.config import BertPretraining
from bert_jax.model import BertForPretraining
from bert_jax.pretraining import TRAINED_TOKENIZERS, batch_shapes, resolve_model
from bert_jax.tasks import initial_params, pretraining_loss, training_step
from bert_jax.tokenizer import load_tokenizer
from core_jax.flops import count_flops
from core_jax.optimizers import make_optimizer
from core_jax.plan import Plan, describe_plan, make_plan
from core_jax.sharding import batch_sharding, check_mesh, parse_mesh, with_shardings
from core_jax.topologies import describe_devices, parse_topology
from core_jax.train import abstract_state
from core_jax.workdir import write_atomically
from experiments.console import print_table, say

DOES_NOT_FIT = 3  # exit code


def run(config: BertPretraining, workdir: str) -> int:
    """Compiles, prints, and writes plan.json; returns the exit code: 0 fits, 3 does not.

    Raises:
      UserError: no such slice, a mesh that does not divide, or no TPU compiler.
    """
    jax.config.update("jax_platforms", "cpu")  # whatever is here is not what is planned for
    plan = plan_pretraining(config)
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, "plan.json")
    write_atomically(path, json.dumps(dataclasses.asdict(plan), indent=2) + "\n")
    tokens = config.training.global_batch_size * config.text.sequence_length
    title = f"{config.preset}, {config.training.global_batch_size} x {config.text.sequence_length}, on {plan.topology}"
    print_table(title, ("a step", "planned"), describe_plan(plan, tokens, config.training.steps))
    say(f"plan: {path}   compiled in {plan.compile_seconds:.0f} s")
    return 0 if plan.fits else DOES_NOT_FIT


def plan_pretraining(config: BertPretraining) -> Plan:
    """Compiles the step of a run for the slice that `--plan` names."""
    topology, training = parse_topology(config.training.plan), config.training
    mesh = parse_mesh(training.mesh, describe_devices(topology))
    model = BertForPretraining(config.model)
    if config.text.tokenizer not in TRAINED_TOKENIZERS:
        model = resolve_model(config.model, load_tokenizer(config.text.tokenizer))
    optimizer = make_optimizer(config.optimizer, training.steps)
    state = abstract_state(initial_params(model), optimizer)
    check_mesh(mesh, state, training.global_batch_size, training.accumulation_steps)
    state = with_shardings(state, mesh)
    rows = batch_sharding(mesh)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch_shapes(config))
    step = training_step(model, optimizer, state, training.accumulation_steps)
    needed = float(model_flops(model, state.params, batch))
    return make_plan(step, (state, batch), needed, mesh, topology)


def model_flops(model: BertForPretraining, params: PyTree, batch: PyTree) -> int:
    """Operations that one step of the model needs, over all chips: three times those of its forward pass.

    Counted on plain attention, since what a kernel computes again is not needed. It is what `useful_flops` gives for
    rows that are full of one segment each: a plan knows of no text.
    """
    plain = BertForPretraining(dataclasses.replace(model.config, attention="reference", remat="none"))
    return 3 * count_flops(pretraining_loss(plain, train=True), params, batch, jax.random.key(0))
