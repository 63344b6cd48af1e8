"""Chats: what becomes of a line, and which lines are none."""

import json

import numpy as np
import pytest

from configs import bd3lm_dmmd
from dmmd_jax import config as checks
from dmmd_jax.data import chats
from dmmd_jax.data.alphabets import PRINTABLE, TextError
from dmmd_jax.data.pipeline import Batches

PLAIN = chats.FORMATS["plain"]


def write(tmp_path, lines):
  path = tmp_path / "chats.jsonl"
  path.write_text("\n".join(map(json.dumps, lines)))
  return str(path)


def test_messages_are_written_as_the_tokenizers_of_the_teachers_write_them():
  line = {"prompt": " What is {x}? ", "answer": "Paris.\n"}
  prompt, answer = chats.to_chat(line, chats.FORMATS["llada"])
  assert prompt == (
    "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nWhat is {x}?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
  )
  assert answer == "Paris.<|eot_id|>"
  prompt, answer = chats.to_chat(line, chats.FORMATS["dream"])
  assert prompt == (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat is {x}?<|im_end|>\n<|im_start|>assistant\n"
  )
  assert answer == "Paris.<|im_end|>\n"


def test_the_last_of_several_messages_is_the_answer():
  said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"), ("user", "1 + 1?")]
  messages = [{"role": r, "content": c} for r, c in [*said, ("assistant", "2")]]
  prompt, answer = chats.to_chat({"messages": messages}, PLAIN)
  assert prompt == "Be brief.\nHi\nHo\n1 + 1?\n" and answer == "2\n"
  prompt, _ = chats.to_chat({"messages": messages}, chats.FORMATS["dream"])
  assert prompt.count("system") == 1 and "helpful" not in prompt


def test_prompts_are_counted_and_answers_padded(tmp_path):
  lines = [{"prompt": f"{i}?", "answer": f"It is {i}"} for i in range(200)]
  lines += [{"prompt": "x", "answer": 40 * "long "}]
  data = chats.load(write(tmp_path, lines), PRINTABLE, 24, "plain")
  assert sum(len(getattr(data, s)) for s in ("train", "validation", "held_out")) == 200
  for tokens, prompt in zip(data.train, data.train_prompts, strict=True):
    text = PRINTABLE.decode(tokens)
    number = text[:prompt].rstrip("?\n")
    assert text == f"{number}?\nIt is {number}\n".ljust(24)
  batch = next(Batches(data, 4, seed=0).read(0))
  assert batch.prompts.shape == (4,) and batch.labels is None
  for tokens, prompt in zip(batch.tokens, batch.prompts, strict=True):
    assert PRINTABLE.decode(tokens)[prompt - 2 : prompt] == "?\n"
  assert len(np.unique(data.train_prompts)) > 1


@pytest.mark.parametrize(
  "line",
  [
    "{", "[]", "1", "{}", '{"prompt": "x"}', '{"prompt": 1, "answer": "x"}', '{"messages": []}',
    '{"messages": [{"role": "assistant", "content": "x"}]}',
    '{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]}',
    '{"messages": [{"content": "x"}, {"role": "assistant", "content": "x"}]}',
    '{"messages": [{"role": "user", "content": ["x"]}, {"role": "assistant", "content": "x"}]}',
  ],
)  # fmt: skip
def test_a_line_that_is_no_chat_is_named(tmp_path, line):
  path = tmp_path / "chats.jsonl"
  path.write_text('{"prompt": "x", "answer": "y"}\n\n' + line)
  with pytest.raises(TextError, match="line 3 is no chat; expected an object"):
    chats.load(str(path), PRINTABLE, 24, "plain")


def test_too_few_chats_and_other_tokenizers_are_one_line(tmp_path):
  path = write(tmp_path, [{"prompt": "x", "answer": "y"}])
  with pytest.raises(TextError, match=r"chats of at most 24 tokens in its .* split; expected"):
    chats.load(path, PRINTABLE, 24, "plain")
  with pytest.raises(TextError, match=r"'<\|endoftext\|>' is 13 tokens, where chats of the format"):
    chats.load(path, PRINTABLE, 24, "llada")


def test_blocks_which_know_no_prompts_are_refused():
  config = bd3lm_dmmd.get_config()
  with config.unlocked():
    config.dataset.update({"name": "chats", "path": "a.jsonl", "chat": "plain", "wrap": False})
  with pytest.raises(checks.ConfigError, match=r"network\.block is 16; blocks are sampled without"):
    checks.check(config)
  config.network.block = 0
  checks.check(config)
