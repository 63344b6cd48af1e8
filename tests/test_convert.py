"""`python -m dmmd_jax convert`: a teacher of others to a run and back, and what it refuses."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save_file

from dmmd_jax import convert, records
from tests.teachers.made import FOLDERS, copy, loaded, tensors

BLOCK = "backbone.blocks.0."
QKV = f"{BLOCK}attn_qkv.weight"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run made from MDLM's golden teacher."""
  workdir = tmp_path_factory.mktemp("runs") / "mdlm"
  convert.main([str(FOLDERS["mdlm"]), f"--workdir={workdir}"])
  return workdir


def refused(capsys, *args):
  """The one line that a refusal prints."""
  with pytest.raises(SystemExit) as stopped:
    convert.main(list(map(str, args)))
  error = capsys.readouterr().err
  assert stopped.value.code == 2 and error.count("\n") == 1, error
  return error


def test_a_run_written_back_is_the_same_file(run, tmp_path, capsys):
  convert.main([str(run), "--to=safetensors", f"--out={tmp_path / 'out'}"])
  assert "teacher of kind mdlm" in capsys.readouterr().out
  theirs, ours = (tensors(folder) for folder in (FOLDERS["mdlm"], tmp_path / "out"))
  assert theirs.keys() == ours.keys()
  for name, x in theirs.items():
    np.testing.assert_array_equal(ours[name], x, strict=True)
  names = ("config.json",)
  assert all(
    json.loads((f / n).read_text()) == json.loads((FOLDERS["mdlm"] / n).read_text())
    for f, n in ((tmp_path / "out", n) for n in names)
  )
  card = (tmp_path / "out" / "README.md").read_text()
  record = json.loads((run / "teacher" / "record.json").read_text())
  origin = record["depends"]["inputs"]["origin"]
  assert origin["files"]["model.safetensors"] in card and record["result"]["digest"] in card


def test_a_converted_teacher_can_be_given_any_text_and_is_of_one_network(run):
  config = loaded("mdlm")[0].copy_and_resolve_references()
  config.dataset.update({"name": "textfile", "path": "elsewhere", "length": 64})
  (teacher,) = records.find_sources(config, epath.Path(run), "distill").values()
  assert teacher.identity["inputs"]["origin"]["kind"] == "mdlm" and teacher.step == 1
  config.network.heads = 4
  with pytest.raises(records.ConfigError, match=r"network\.heads: 2 -> 4"):
    records.find_sources(config, epath.Path(run), "distill")


# Each is (kind, entries of config.json, change of tensors, options, a part of the line).
def take(*names):
  return lambda x: {n: v for n, v in x.items() if n not in names}


def put(name, value):
  return lambda x: x | {name: value}


def rename(old, new):
  return lambda x: {new if n == old else n: v for n, v in x.items()}


def with_nan(x):
  x[QKV][3, 4] = np.nan


FLOAT = np.zeros((16, 16), np.float32)
CONTENTS = {
  "missing": ("mdlm", {}, take(QKV), [], "lacks backbone.blocks.0.attn_qkv.weight"),
  "missing_norm": ("duo", {}, take(f"{BLOCK}norm1.weight"), [], "that it is 1; get"),
  "missing_bias": ("duo", {}, take("backbone.output_layer.linear.bias"), [], "lacks"),
  "missing_table": ("mdlm", {}, take("backbone.vocab_embed.embedding"), [], "vocab_embed"),
  "missing_time": ("duo", {}, take("backbone.sigma_map.mlp.2.bias"), [], "lacks backbone.sigma"),
  "missing_mlp": ("mdlm", {}, take(f"{BLOCK}mlp.0.weight"), [], "blocks.0.mlp.0.weight"),
  "left_over": ("mdlm", {}, put("backbone.extra", FLOAT), [], "has besides backbone.extra"),
  "lora": ("mdlm", {}, put(f"{BLOCK}lora_A.weight", FLOAT), [], "has besides"),
  "renamed": ("mdlm", {}, rename(QKV, f"{BLOCK}qkv.weight"), [], "lacks"),
  "no_prefix": ("mdlm", {}, lambda x: {n[9:]: v for n, v in x.items()}, [], "no vocab_embed"),
  "module_prefix": ("duo", {}, lambda x: {f"module.{n}": v for n, v in x.items()}, [], "kind"),
  "wrong_shape": ("mdlm", {}, put(QKV, FLOAT), [], "(16, 16) in place of (48, 16)"),
  "transposed": ("mdlm", {}, lambda x: x | {QKV: x[QKV].T.copy()}, [], "(16, 48) in place of"),
  "one_row_less": (
    "mdlm", {}, lambda x: x | {"backbone.output_layer.linear.weight":
    x["backbone.output_layer.linear.weight"][1:].copy()}, [], "(29, 16) in place of (30, 16)",
  ),
  "flat_table": ("mdlm", {}, put("backbone.vocab_embed.embedding", FLOAT[0]), [], "of 2 axes"),
  "mixed_layers": (
    "duo", {}, rename(f"{BLOCK}attn_out.weight", "backbone.blocks.7.attn_out.weight"), [], "lacks",
  ),
  "nan": ("mdlm", {}, with_nan, [], "has NaN or infinity in backbone.blocks.{}.attn_qkv"),
  "infinite": ("mdlm", {}, put(f"{BLOCK}norm1.weight", np.full(16, np.inf, "f4")), [], "has NaN"),
  "integers": ("mdlm", {}, put(QKV, np.zeros((48, 16), np.int32)), [], "is of type I32"),
  "doubles": ("mdlm", {}, put(QKV, np.zeros((48, 16))), [], "is of type F64"),
  "depth": ("mdlm", {"n_blocks": 3}, None, [], "depth is 3, and the tensors that it is 2"),
  "width": ("mdlm", {"hidden_dim": 32}, None, [], "width is 32, and the tensors"),
  "vocabulary": ("duo", {"vocab_size": 50258}, None, [], "vocab_size is 50258, and the tensors"),
  "heads": ("mdlm", {"n_heads": 3}, None, [], "heads is 3, and the tensors"),
  "text_size": ("mdlm", {"n_blocks": "two"}, None, [], "n_blocks two; expected a whole number"),
  "true_size": ("mdlm", {"n_blocks": True}, None, [], "n_blocks True; expected a whole number"),
  "time": ("mdlm", {"time_conditioning": "no"}, None, [], "time_conditioning no; expected"),
  "no_heads": (
    "mdlm", {"n_heads": None}, take("backbone.rotary_emb.inv_freq"), [], "no number of heads",
  ),
  "odd_heads": (
    "mdlm", {"n_heads": 5}, take("backbone.rotary_emb.inv_freq"), [], "no number of heads",
  ),
  "no_block": ("bd3lm", {"block_size": None}, None, [], "give --block"),
  "odd_block": ("bd3lm", {"block_size": 3}, None, [], "network.block is 3; expected 0, or"),
  "uniform_sedd": ("sedd", {"graph": {"type": "uniform"}}, None, [], "sedd with graph uniform"),
  "other_model": ("mdlm", {"model_type": "gpt2"}, None, [], "'gpt2'; expected a teacher of kind"),
  "no_kind": ("mdlm", {"model_type": None}, None, [], "nothing in it says which"),
  "duo_as_sedd": ("duo", {}, None, ["--kind=sedd"], "no vocab_embed.embedding"),
  "llada_as_dream": ("llada", {}, None, ["--kind=dream"], "config.json has hidden_size None"),
  "mdlm_as_llada": ("mdlm", {}, None, ["--kind=llada"], "config.json has d_model None"),
  "bad_kind": ("mdlm", {}, None, ["--kind=mdml"], "--kind is 'mdml'; expected one of"),
  "stray_block": ("mdlm", {}, None, ["--block=4"], "no blocks: leave it out"),
  "tied": ("dream", {"tie_word_embeddings": True}, None, [], "tie_word_embeddings True; expected"),
  "scaled_rope": ("dream", {"rope_scaling": {"type": "yarn"}}, None, [], "rope_scaling"),
  "window": ("dream", {"use_sliding_window": True}, None, [], "use_sliding_window True"),
  "alibi": ("llada", {"alibi": True}, None, [], "alibi True; expected False"),
  "gelu": ("llada", {"activation_type": "gelu"}, None, [], "activation_type gelu; expected silu"),
  "kv_heads": ("dream", {"num_key_value_heads": 3}, None, [], "network.kv_heads is 3; expected"),
  "other_kv_heads": ("dream", {"num_key_value_heads": 4}, None, [], "in place of (24, 24)"),
  "no_base": ("llada", {"rope_theta": None}, None, [], "rope_theta None; expected a number"),
  "negative_base": ("dream", {"rope_theta": -1.0}, None, [], "rope_theta -1.0; expected a number"),
  "no_mask": ("llada", {"mask_token_id": None}, None, [], "mask_token_id None; expected a whole"),
  "far_mask": ("dream", {"mask_token_id": 30}, None, [], "network.mask_token is 30"),
  "no_head": ("dream", {}, take("lm_head.weight"), [], "lacks lm_head.weight"),
  "no_bias": ("dream", {}, take("model.layers.1.self_attn.k_proj.bias"), [], "k_proj.bias"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTENTS)
def test_a_damaged_teacher_is_one_line_and_nothing_written(case, tmp_path, capsys):
  kind, config, change, options, expected = CONTENTS[case]
  folder = copy(kind, tmp_path / "source", config, change)
  line = refused(capsys, folder, f"--workdir={tmp_path / 'run'}", *options)
  assert expected in line
  assert not (tmp_path / "run").exists()


def truncate(path):
  path.write_bytes(path.read_bytes()[:-40])


def overwrite(text):
  return lambda path: path.write_text(text)


def in_index(change):
  def edit(path):
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))

  return edit


def second_file(path):
  shutil.copy(path, path.with_name("other.safetensors"))


def to_wide(path):
  """A tensor of a type that NumPy has not."""
  x = load_file(path)
  save_file({**x, QKV: x[QKV].astype(ml_dtypes.float8_e4m3fn)}, path)


INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"
WTE = "model.transformer.wte.weight"
# Each is (kind, file, what happens to it, a part of the line).
FILES = {
  "truncated": ("mdlm", "model.safetensors", truncate, "cannot read"),
  "empty": ("mdlm", "model.safetensors", overwrite(""), "cannot read"),
  "pointer": ("mdlm", "model.safetensors", overwrite("version https://git-lfs"), "cannot read"),
  "absent": ("mdlm", "model.safetensors", lambda p: p.unlink(), "has no safetensors; expected"),
  "float8": ("mdlm", "model.safetensors", to_wide, "is of type F8_E4M3"),
  "twice": ("mdlm", "model.safetensors", second_file, "expected each tensor once"),
  "garbled": ("mdlm", "config.json", overwrite("{"), "cannot read"),
  "listed": ("mdlm", "config.json", overwrite("[1]"), "holds a list; expected an object"),
  "shard": ("llada", SHARD, lambda p: p.unlink(), f"has no {SHARD}, which"),
  "no_index": ("llada", INDEX, lambda p: p.unlink(), "which says what is in which file"),
  "index": ("llada", INDEX, overwrite("{}"), "is not an index of tensors"),
  "index_lists_more": ("llada", INDEX, in_index(lambda m: m.update(x=SHARD)), "x is in no file"),
  "index_lists_less": ("llada", INDEX, in_index(lambda m: m.pop(WTE)), f"{WTE} is in model-0000"),
  "shard_truncated": ("llada", SHARD, truncate, "cannot read"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_is_one_line_and_nothing_written(case, tmp_path, capsys):
  kind, name, damage, expected = FILES[case]
  folder = copy(kind, tmp_path / "source")
  damage(folder / name)
  line = refused(capsys, folder, f"--workdir={tmp_path / 'run'}")
  assert expected in line
  assert not (tmp_path / "run").exists()


def test_arguments_that_do_not_go_together_are_one_line(run, tmp_path, capsys):
  source, out = FOLDERS["mdlm"], tmp_path / "out"
  for args, expected in (
    ([source], "there is no --workdir"),
    ([tmp_path / "nowhere", f"--workdir={out}"], "does not exist; expected"),
    ([source, f"--workdir={out}", "--out=x"], "go with --to=safetensors"),
    ([source, f"--workdir={run}"], "there is a teacher in"),
    (["random", f"--workdir={out}"], "there is no --kind"),
    ([run, "--to=safetensors"], "expected --out=FOLDER"),
    ([run, "--to=safetensors", f"--out={run}"], "which exists; name a new folder"),
    ([run, "--to=safetensors", f"--out={out}/a/b"], "make it first"),
    ([run, "--to=safetensors", f"--out={out}", "--model=student"], "no trained student"),
    ([tmp_path, "--to=safetensors", f"--out={out}"], "no trained teacher"),
  ):
    assert expected in refused(capsys, *args)
    assert not out.exists()
