"""What a config and its data must have in common, once these are there."""

from ml_collections import ConfigDict

from dmmd_jax.config import example_shape
from dmmd_jax.config_file import require
from dmmd_jax.data.pipeline import Dataset, find_fault


def check_data(config: ConfigDict, dataset: Dataset) -> None:
  """Raises `ConfigError` for data that are not as `Dataset` says, or not what the config says."""
  name, shape = config.dataset.name, example_shape(config)
  fault = find_fault(dataset)
  require(not fault, f"the data {name}: {fault}")
  require(
    dataset.shape == shape, f"the examples of {name} are {dataset.shape}; the config has {shape}"
  )
  require(
    not config.network.classes or dataset.num_classes > 0,  # labels are read only if asked for
    f"network.classes is True; {name} has no labels: set it to False",
  )
  chooses = "evaluate" in config.get("phases", ()) and config.evaluate.split == "validation"
  require(
    not chooses or dataset.validation is not None,
    f"evaluate.split is validation; {name} has no such split: set it to held_out",
  )
  if "vocab_size" in config.network:
    _check_tokens(config.network, dataset)


def _check_tokens(network: ConfigDict, dataset: Dataset) -> None:
  """The table has a row for each token, and none of them is that of the mask.

  But for networks like LLaDA's, whose tokenizers have the mask for a token.
  """
  num = dataset.num_categories
  is_mask = network.name != "llama" and 0 <= network.mask_token < num
  whose, todo = "data have", "set these to what the data need"
  if dataset.tokenizer:
    whose, todo = "tokenizer has", "name that of the teacher in dataset.tokenizer"
  require(
    num <= network.vocab_size and not is_mask,
    f"the {whose} {num} tokens, and network.vocab_size is {network.vocab_size} with"
    f" network.mask_token {network.mask_token}; {todo}",
  )
