"""Chats from a JSONL file: prompts that are given, answers that are diffused."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dmmd_jax.data.alphabets import Alphabet, BytePairs, TextError
from dmmd_jax.data.files import expand
from dmmd_jax.data.pipeline import Dataset
from dmmd_jax.data.text import read

_EXPECTED = (
  'expected an object with "prompt" and "answer", or with "messages", of which each has "role" and'
  ' "content", and the last is of the assistant'
)
_SPLITS = ("train", "validation", "held_out")


@dataclasses.dataclass(frozen=True)
class Format:
  """How messages become a text: `message` of each, `answer` before the last, `end` after it.

  The rest of an example is filled up with `padding`, one token, which the network learns to
  predict as all else of an answer. `system` is said where a chat has no such message.
  """

  begin: str
  message: str
  answer: str
  end: str
  padding: str
  system: str = ""


FORMATS = {
  # As the tokenizers of LLaDA-8B-Instruct and Dream-v0-Instruct-7B have them.
  "llada": Format(
    begin="<|startoftext|>",
    message="<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
    answer="<|start_header_id|>assistant<|end_header_id|>\n\n",
    end="<|eot_id|>",
    padding="<|endoftext|>",
  ),
  "dream": Format(
    begin="",
    message="<|im_start|>{role}\n{content}<|im_end|>\n",
    answer="<|im_start|>assistant\n",
    end="<|im_end|>\n",
    padding="<|endoftext|>",
    system="You are a helpful assistant.",
  ),
  "plain": Format(begin="", message="{content}\n", answer="", end="\n", padding=" "),
}


class Chat(NamedTuple):
  """The text before an answer, and the answer to its end."""

  prompt: str
  answer: str


def load(path: str, tokenizer: Alphabet | BytePairs, length: int, style: str) -> Dataset:
  """The chats of a JSONL file in one of `FORMATS`, a line each; split by their hash, 8 : 1 : 1.

  Chats of more than `length` tokens are left out. Raises `TextError` for lines that are no chats,
  and where a split has fewer than two.
  """
  form, file = FORMATS[style], expand(path)
  (padding, *more) = tokenizer.encode(form.padding)
  if more:
    raise TextError(
      f"{form.padding!r} is {len(more) + 1} tokens, where chats of the format {style} have one;"
      " name the tokenizer of the teacher in dataset.tokenizer, or set another dataset.chat"
    )
  rows: dict[str, list] = {split: [] for split in _SPLITS}
  too_long = 0
  for chat in read_chats(file, form):
    prompt, answer = (tokenizer.encode(part) for part in chat)
    if len(prompt) + len(answer) > length:
      too_long += 1
      continue
    tokens = np.full(length, padding, np.int32)
    tokens[: len(prompt)], tokens[len(prompt) :][: len(answer)] = prompt, answer
    tenth = hashlib.sha256("".join(chat).encode()).digest()[0] % 10
    rows[_SPLITS[max(tenth - 7, 0)]].append((tokens, len(prompt)))
  print(f"{file}: {', '.join(f'{len(r)} {s}' for s, r in rows.items())}, {too_long} too long")
  for split, found in rows.items():
    if len(found) < 2:
      raise TextError(
        f"{file} has {len(found)} chats of at most {length} tokens in its {split} split; expected"
        " two at least: give more, or raise dataset.length"
      )
  arrays = {split: tuple(map(np.array, zip(*found, strict=True))) for split, found in rows.items()}
  return Dataset(
    **{split: tokens for split, (tokens, _) in arrays.items()},
    **{f"{split}_prompts": prompts for split, (_, prompts) in arrays.items()},
    num_categories=tokenizer.num_categories,
    tokenizer=tokenizer,
  )


def read_chats(file: pathlib.Path, form: Format) -> Iterator[Chat]:
  """The chats of a file. Raises `TextError` for a line that is none, with its number."""
  for number, line in enumerate(read(file).splitlines(), 1):
    if not line.strip():
      continue
    try:
      yield to_chat(json.loads(line), form)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
      raise TextError(f"{file}, line {number} is no chat; {_EXPECTED}") from error


def to_chat(line: dict, form: Format) -> Chat:
  """What a line says. Raises `ValueError`, `KeyError` or `TypeError` where it is no chat."""
  messages = line.get("messages")
  if messages is None:
    messages = [{"role": "user", "content": line["prompt"]}]
    messages += [{"role": "assistant", "content": line["answer"]}]
  *before, last = ((message["role"], message["content"]) for message in messages)
  if not before or last[0] != "assistant" or not all(isinstance(x, str) for x in sum(before, last)):
    raise ValueError
  if form.system and before[0][0] != "system":
    before.insert(0, ("system", form.system))
  said = (form.message.format(role=role, content=content.strip()) for role, content in before)
  return Chat(form.begin + "".join(said) + form.answer, last[1].strip() + form.end)
