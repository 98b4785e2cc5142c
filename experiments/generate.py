"""Continues texts with a GPT:   python -m experiments.generate --init=WORKDIR "Paris is"

Prompts come from arguments, a file or standard input, a line each. A single one appears on a terminal as it is written;
in a pipe there is a line of JSON for each continuation. Speeds are printed to standard error.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import jax
import tyro

from bert_jax.generation import Continuation, Generator
from bert_jax.generation_settings import GenerationSettings, Shape, check_lengths
from bert_jax.gpt_starting_points import OpenedGpt, open_gpt, open_sizes
from bert_jax.new_text import NewText
from core_jax.config import require
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from experiments import planning
from experiments.console import check_unicode, console, errors, parse_flags, report, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """Continues texts."""

    prompts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()  # texts to go on from
    init: str  # work folder of `experiments.pretrain gpt-mini`, or hf:DIR: a GPT-2 that transformers saved
    file: str = ""  # with a prompt a line; - is standard input
    settings: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # a string that ends a text and is left out; may be repeated
    batch_size: int = 16  # continuations that are computed together
    mesh: str = "data:-1"  # devices by axis, as for pretraining
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of computation
    # compile what would be computed for a TPU slice that is not here, such as v5e-4; report, do not generate. Without
    # prompts, --batch_size of the longest ones that the model can read
    plan: str = ""

    def __post_init__(self):
        require(self.batch_size > 0, f"--batch_size={self.batch_size}: expected 1 or more")
        require(not (self.prompts and self.file), f"prompts and --file={self.file} are given; expected one of them")
        require(all(self.stop), "--stop=: a text would end before it begins; give a string, or leave it out")
        beams = self.settings.search.beams
        require(
            beams == 1 or not self.stop,
            f"--beams={beams} follows several texts at once, and does not look for --stop={''.join(self.stop[:1])!r}: "
            "leave one of them out",
        )


def main(arguments: list[str]) -> int:
    """Generates and prints; returns the exit code."""
    flags = parse_flags(Generation, arguments, "Continues texts with a GPT.")
    if flags.plan:
        return plan(flags)
    texts, mesh = read_prompts(flags), parse_mesh(flags.mesh)
    gpt = open_gpt(flags.init, mesh, flags.dtype, lambda message: errors.print(message, markup=False))
    prompts, positions = gpt.encode(texts), gpt.model.config.maximum_positions
    lengths = [len(prompt) for prompt in prompts]
    check_lengths(lengths, flags.settings.max_new_tokens, positions)
    shape = Shape.of(lengths, flags.settings, positions, flags.batch_size, mesh)
    pieces = {"pieces": gpt.tokenizer.vocab_size, "end_ids": gpt.ends}
    generator = Generator(gpt.model, gpt.params, flags.settings, shape, mesh, **pieces)
    generator.compile()
    streams = console.is_terminal and len(texts) * flags.settings.samples * flags.settings.search.beams == 1
    for start in range(0, len(prompts), shape.prompts):
        part = slice(start, start + shape.prompts)
        write_batch(generator, gpt, flags, texts[part], prompts[part], start, streams=streams)
    if jax.process_index() == 0:
        errors.print(generator.speed.describe(), markup=False)
    return 0


def plan(flags: Generation) -> int:
    """Compiles reading and writing for the slice that --plan names, and reports; returns the exit code."""
    planner, settings = planning.planner_for(flags.plan, flags.mesh), flags.settings
    gpt = open_sizes(flags.init, planner.mesh, flags.dtype)
    positions = gpt.model.config.maximum_positions
    new = settings.max_new_tokens
    require(new < positions, f"--max_new_tokens={new}: prompt and text have {positions:,} together; use fewer")
    lengths = [positions - new] * flags.batch_size
    if flags.prompts or flags.file:
        lengths = [len(prompt) for prompt in gpt.encode(read_prompts(flags))]
    check_lengths(lengths, new, positions)
    shape = Shape.of(lengths, settings, positions, flags.batch_size, planner.mesh)
    pieces = {"pieces": gpt.tokenizer.vocab_size, "end_ids": gpt.ends}
    with jax.set_mesh(planner.mesh):  # the type of computation is that of its devices
        Generator(gpt.model, gpt.params, settings, shape, planner.mesh, **pieces).plan(planner)
    return planning.show_calls(planner)


def read_prompts(flags: Generation) -> list[str]:
    """The prompts, from wherever they are.

    Raises:
      UserError: there are none, or one is empty.
    """
    texts = list(flags.prompts)
    if not texts and (flags.file == "-" or (not flags.file and not sys.stdin.isatty())):
        texts = list(_lines(sys.stdin))
    elif flags.file:
        try:
            with open(flags.file, encoding="utf-8") as file:
                texts = list(_lines(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--file={flags.file} cannot be read ({error}); expected a prompt a line, or -") from error
    check_lengths([len(text.strip()) for text in texts], 0, sys.maxsize)
    for text in texts:
        check_unicode(text, "a prompt")
    return texts


def _lines(file) -> Iterator[str]:
    return (line.rstrip("\n") for line in file if line.strip())


def write_batch(
    generator: Generator,
    gpt: OpenedGpt,
    flags: Generation,
    texts: Sequence[str],
    prompts: Sequence[Sequence[int]],
    first: int,
    *,
    streams: bool,
) -> None:
    """Continues some prompts and prints what follows.

    Args:
      generator: of the model.
      gpt: the model.
      flags: of the command.
      texts: the prompts.
      prompts: their tokens.
      first: number of the first of them.
      streams: whether text is shown as it comes.
    """
    samples = flags.settings.samples
    new = [NewText(gpt.tokenizer, prompt, flags.stop) for prompt in prompts for _ in range(samples)]
    taken = [0] * len(new)
    if streams:
        _show(texts[0])

    def watch(row: int, tokens: list[int]) -> bool:
        text = new[row].add(tokens[taken[row] :])
        taken[row] = len(tokens)
        if streams:
            _show(text)
        return new[row].is_stopped

    found = generator.write(prompts, range(first, first + len(prompts)), watch)
    if streams:
        _show(new[0].close() + "\n")
        return
    for number, (text, continuations) in enumerate(zip(texts, found, strict=True)):
        for sample, continuation in enumerate(continuations):
            row = new[number * samples + sample]
            row.add(continuation.tokens[taken[number * samples + sample] :])  # beams are only known now
            _print(text, row.text, sample, continuation, flags)


def _show(text: str) -> None:
    if jax.process_index() == 0:
        sys.stdout.write(text)
        sys.stdout.flush()


def _print(prompt: str, text: str, sample: int, continuation: Continuation, flags: Generation) -> None:
    if jax.process_index() != 0:
        return
    if console.is_terminal:
        report(f"{prompt}{text}\n")
        return
    line = {"prompt": prompt, "text": text, "tokens": len(continuation.tokens), "ending": continuation.ending}
    line |= {"sample": sample} if flags.settings.samples > 1 else {}
    line |= {} if continuation.score is None else {"score": round(continuation.score, 6)}
    report(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    run_command(main)
