"""Preparation on many machines: the shards of a corpus as an Apache Beam pipeline, with whatever runner Beam has."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from bert_jax.corpus_building import Slices
from bert_jax.corpus_shards import ShardWriter
from core_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class BeamPipeline:
    """Writes shards as `corpus_building.write_here` does, on the workers of a Beam runner.

    Every worker must see the source and the corpus's folder under the same path, as on a shared file system; and have
    this package installed.

    Attributes:
      runner: name of the runner (DirectRunner, FlinkRunner, SparkRunner, DataflowRunner, ...).
      options: flags of Beam, such as --direct_num_workers=2.
    """

    runner: str
    options: Sequence[str] = ()

    def __post_init__(self):
        try:
            _beam().runners.create_runner(self.runner)
        except (ValueError, ImportError, AttributeError) as error:
            raise UserError(f"--beam_runner={self.runner}: {error}") from error

    def __call__(self, writer: ShardWriter, slices: Slices) -> Iterator[int]:
        """Runs the pipeline to its end, then yields the number of tokens of each shard."""
        beam = _beam()
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]

        # A plain list of options: none of the command line's own flags are meant for Beam.
        with beam.Pipeline(runner=self.runner, options=PipelineOptions(list(self.options))) as pipeline:
            _ = pipeline | beam.Create(list(slices)) | beam.Reshuffle() | beam.MapTuple(writer.write)
        for number, _ in slices:
            yield writer.tokens(number)


def _beam() -> Any:
    try:
        import apache_beam  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"--beam_runner needs Apache Beam, which is not installed ({error}). Type: pip install -e '.[beam]'"
        ) from error
    return apache_beam
