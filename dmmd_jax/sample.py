"""Prints text from a trained workdir: `python -m dmmd_jax.sample --workdir=runs/text_dmmd`."""

from collections.abc import Callable, Iterator

import numpy as np

from dmmd_jax import command, records
from dmmd_jax import workdir as workdirs
from dmmd_jax.config import ConfigError


def main(argv: list[str] | None = None) -> None:
  parser = command.Parser(prog="python -m dmmd_jax.sample", description="Prints generated text.")
  parser.add_argument(
    "--workdir", required=True, help="of a run on text: a folder, or gs://bucket/folder"
  )
  parser.add_argument("--model", choices=("student", "teacher"), help="default: student if any")
  parser.add_argument("--prompt", default="", help="how the text begins")
  parser.add_argument("--nfe", type=int, default=16, help="network evaluations, of every block")
  parser.add_argument("--temperature", type=float, default=1.0)
  parser.add_argument("--top_p", type=float, default=1.0)
  parser.add_argument("--num", type=int, default=1, help="texts")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--unfinished", action="store_true", help="use a model still in training")
  args = parser.parse_args(argv)
  if args.nfe < 1 or args.num < 1 or args.temperature <= 0 or not 0 < args.top_p <= 1:
    parser.error("expected nfe and num of at least 1, temperature above 0, top_p in (0, 1]")
  try:
    workdir = workdirs.locate(args.workdir)
    model = args.model or ("student" if (workdir / "distill").exists() else "teacher")
    source = records.find_model(workdir, model, args.unfinished)
    config = source.config
    if "alphabet" not in config.dataset:
      raise ValueError(f"{workdir} is a run on {config.dataset.name}; expected one on text")
    _print_texts(args, source, model == "student")
  except (ConfigError, ValueError, FileNotFoundError) as error:
    parser.error(str(error))


def _print_texts(args, source: records.Source, is_student: bool) -> None:
  command.keep_compiled_programs()
  import jax

  from dmmd_jax import parallel
  from dmmd_jax.data.alphabets import TextError
  from dmmd_jax.phases import build

  try:
    config = source.config
    needs_data = config.process.name == "marginal"
    dataset = build.make_dataset(config) if needs_data else build.outline(config)
    prompt = dataset.tokenizer.encode(args.prompt)
  except TextError as error:
    raise ValueError(str(error)) from error
  length = dataset.shape[0]
  if len(prompt) >= length:
    raise ValueError(f"the prompt has {len(prompt)} tokens, a whole text {length}; shorten it")
  denoiser = build.make_denoiser(config, dataset, student=is_student)
  params = build.load_ema(source, denoiser.init, parallel.make_mesh())
  stream = make_stream(denoiser, prompt, args.nfe, args.temperature, args.top_p)
  for i in range(args.num):
    key = jax.random.fold_in(jax.random.key(args.seed), i)
    for block in stream(params, key):
      print(dataset.tokenizer.decode(block), end="", flush=True)
    print()


def make_stream(
  denoiser, prompt: np.ndarray, nfe: int, temperature: float, top_p: float
) -> Callable[..., Iterator[np.ndarray]]:
  """`stream(params, key)` yields tokens `[D / num_blocks]` block after block.

  The first ones are those of `prompt` `[n]`. A network sees the prompt as it has seen clean tokens
  in training: visible in masked diffusion, which is exact, corrupted like the rest in any other.
  """
  import jax
  import jax.numpy as jnp

  from dmmd_jax.diffusion.processes import Masked
  from dmmd_jax.diffusion.samplers import ancestral_sample

  size = denoiser.shape[0] // denoiser.num_blocks
  begin = jnp.zeros(denoiser.shape, jnp.int32).at[: len(prompt)].set(prompt.astype(np.int32))
  is_given = jnp.arange(len(begin)) < len(prompt)

  @jax.jit
  def draw(params, cache, start, key):
    given, known = (jax.lax.dynamic_slice_in_dim(a, start, size)[None] for a in (begin, is_given))

    def predict(z, t, key):
      seen = given
      if not isinstance(denoiser.process, Masked):
        key, corrupt_key = jax.random.split(key)
        seen = denoiser.process.corrupt(corrupt_key, given, t)
      z = jnp.where(known, seen, z)
      if denoiser.num_blocks == 1:
        return denoiser.log_mean(params, z, t, key)
      return denoiser.block_log_mean(params, cache, start, z, t, key)

    key = jax.random.fold_in(key, start)
    drawn = ancestral_sample(predict, denoiser.process, key, (1, size), nfe, temperature, top_p)
    x = jnp.where(known, given, drawn.tokens)
    return x[0], denoiser.remember(params, cache, start, x) if denoiser.num_blocks > 1 else cache

  def stream(params, key):
    cache = denoiser.empty_cache(1)
    for start in range(0, len(begin), size):
      block, cache = draw(params, cache, start, key)
      yield np.asarray(block)

  return stream


if __name__ == "__main__":
  main()
