"""`python -m dmmd_jax sample`: what it refuses before anything is drawn, and what it leaves.

That it prints text is tested in `test_text.py`, on a run.
"""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from configs import cifar_dmmd, coins_dmmd, digits_dmmd, text_dmmd, text_dmmd_uniform
from dmmd_jax import checkpoints, drawing, records, sample, sample_files
from dmmd_jax.diffusion.samplers import Sampling
from dmmd_jax.diffusion.samplers.grids import Cosine
from dmmd_jax.diffusion.samplers.remasking import ReMDM
from dmmd_jax.digest import digest
from dmmd_jax.phases import build


def source(config):
  return records.Source(None, {"config": config})


def went_on(*_, **__):
  raise AssertionError("went on to draw")


@pytest.fixture
def run_on(tmp_path, monkeypatch):
  """`run_on(config)`, a workdir as if it had been trained; nothing may be drawn from it."""
  monkeypatch.setattr(sample, "draw", went_on)
  (tmp_path / "run").mkdir()

  def make(config):
    monkeypatch.setattr(records, "find_model", lambda *_: source(config.to_dict()))
    return tmp_path / "run"

  return make


@pytest.fixture
def run_on_text(run_on):
  config = text_dmmd.get_config()
  return run_on(config), config


def refuses(capsys, message, *args):
  with pytest.raises(SystemExit) as stopped:
    sample.main(list(map(str, args)))
  error = capsys.readouterr().err
  assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
  assert "\\n" not in error and "\\'" not in error


@pytest.mark.parametrize(
  ("option", "values"),
  [
    ("nfe", ("0", "-1", "1.5", "nan", "1000000000000")),
    ("num", ("0", "-1", "many")),
    ("temperature", ("0", "-1", "nan", "inf", "1e-40", "1e40")),
    ("top_p", ("0", "1.1", "nan", "-inf")),
    ("seed", ("-1", "4294967296", "nan")),
    ("label", ("-1", "1.5")),
    ("guidance", ("-1", "nan")),
    ("batch", ("0",)),
  ],
)
def test_numbers_out_of_range_are_refused(run_on_text, capsys, option, values):
  for value in values:
    expected = f"argument --{option}: found '{value}'; expected"
    refuses(capsys, expected, f"--workdir={run_on_text[0]}", f"--{option}={value}")


@pytest.mark.parametrize(
  ("prompt", "message"),
  [
    ("привет", "not in the alphabet 'text8', such as"),
    ("a" * 64, "the prompt has 64 tokens, a whole text 64; shorten it"),
    ("a" * 10**6, "the prompt has 1000000 tokens"),
    ("?!", "has none of the characters of the prompt"),
    ("\u0301", "has none of the characters of the prompt"),
    ("a\udcff", "is not UTF-8"),
  ],
)
def test_prompts_that_the_model_cannot_go_on_from_are_refused(run_on_text, capsys, prompt, message):
  refuses(capsys, message, f"--workdir={run_on_text[0]}", f"--prompt={prompt}")


def test_a_prompt_of_dropped_characters_alone_is_refused(run_on_text, capsys):
  folder, config = run_on_text
  config.dataset.unknown = "drop"
  refuses(capsys, "has none of the characters", f"--workdir={folder}", "--prompt=привет")
  with pytest.raises(AssertionError, match="went on"):
    sample.main([f"--workdir={folder}", "--prompt=привет a"])


def test_a_home_folder_is_found(run_on_text, monkeypatch):
  folder, config = run_on_text
  monkeypatch.setenv("HOME", str(folder.parent))
  config.dataset.alphabet, config.dataset.tokenizer = "gpt2", "~/bpe"
  from tokenizers import ByteLevelBPETokenizer

  (folder.parent / "bpe").mkdir()
  ByteLevelBPETokenizer().save_model(str(folder.parent / "bpe"))
  with pytest.raises(AssertionError, match="went on"):
    sample.main([f"--workdir={folder}"])


def test_workdirs_without_a_run_are_refused(tmp_path, capsys):
  (tmp_path / "file").touch()
  refuses(capsys, "nowhere does not exist; expected the workdir", "--workdir=nowhere")
  refuses(capsys, "file is a file; name a folder", f"--workdir={tmp_path}/file")
  refuses(capsys, "which is a file; name a folder", f"--workdir={tmp_path}/file/below")
  refuses(capsys, "no trained teacher in", f"--workdir={tmp_path}")


def test_a_model_that_is_not_finished_is_refused_unless_asked_for(tmp_path, capsys, monkeypatch):
  folder = tmp_path / "teacher"
  records.begin(folder, records.depends(text_dmmd.get_config(), "teacher", {}))
  (folder / "checkpoints" / "7").mkdir(parents=True)
  refuses(capsys, "is not finished, its last checkpoint is of step 7", f"--workdir={tmp_path}")
  monkeypatch.setattr(sample, "draw", lambda args, source, *_: print(source.step))
  sample.main([f"--workdir={tmp_path}", "--unfinished"])
  assert capsys.readouterr().out == "7\n"
  (folder / "config.json").write_text("{")
  refuses(capsys, "config.json is damaged", f"--workdir={tmp_path}", "--unfinished")


def test_what_is_refused_is_refused_without_jax(tmp_path):
  program = (
    "import sys\nfrom dmmd_jax import sample\nfrom dmmd_jax.metrics import __main__ as metrics\n"
    "for main, args in ((sample.main, sys.argv[1:2]), (metrics.main, sys.argv[2:])):\n"
    "  try: main(args)\n"
    "  except SystemExit as stopped: assert stopped.code == 2\n"
    "print('jax' in sys.modules)"
  )
  np.save(tmp_path / "a.npy", np.zeros((200, 2), int))
  args = ["--workdir=nowhere", f"{tmp_path}/a.npy", "--reference=nowhere"]
  done = subprocess.run(
    [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60
  )
  assert done.stdout == "False\n" and done.stderr.count("nowhere does not exist") == 2, done.stderr


def test_a_damaged_model_is_one_line(run_on_text, capsys, monkeypatch):
  from dmmd_jax.checkpoints import DamagedModelError

  def draw(*_, **__):
    raise DamagedModelError("checkpoints", 7, "its parameters are not those recorded")

  monkeypatch.setattr(sample, "draw", draw)
  refuses(capsys, "checkpoint 7 of checkpoints is damaged", f"--workdir={run_on_text[0]}")


TEXT, COINS, DIGITS, UNIFORM = (
  c.get_config() for c in (text_dmmd, coins_dmmd, digits_dmmd, text_dmmd_uniform)
)


@pytest.mark.parametrize(
  ("config", "option", "message"),
  [
    (TEXT, "--out=x.png", "texts go to a file that ends in .txt or .npz"),
    (COINS, "--out=x.png", "sequences go to a file that ends in .txt or .npz"),
    (DIGITS, "--out=x.txt", "images go to a file that ends in .png or .npz"),
    (cifar_dmmd.get_config(), "--out=x.txt", "images go to a file that ends in .png or .npz"),
    (DIGITS, "--out=nowhere/x.png", "there is no folder nowhere"),
    (DIGITS, "--num=10001", "a grid takes at most 10000 images: use --out=x.npz"),
    (DIGITS, "--prompt=a", "this is a run on digits, not on text"),
    (DIGITS, "--label=3", "the network of this run knows no classes"),
    (UNIFORM, "--guidance=1", "a network that knows no classes is guided against"),
    (DIGITS, "--guidance=1", "images; these are guided by labels"),
  ],
)
def test_options_that_the_run_has_no_use_for_are_refused(run_on, capsys, config, option, message):
  refuses(capsys, message, f"--workdir={run_on(config)}", option)


def test_a_student_is_not_guided(run_on, capsys):
  config = digits_dmmd.get_config()
  config.network.classes = True
  workdir = run_on(config)
  (workdir / "distill").mkdir()
  refuses(capsys, "use --model=teacher", f"--workdir={workdir}", "--guidance=1")
  with pytest.raises(AssertionError, match="went on"):
    sample.main([f"--workdir={workdir}", "--guidance=1", "--model=teacher"])


@pytest.mark.parametrize(
  ("config", "args", "out", "num"),
  [
    (TEXT, [], None, 1),
    (COINS, [], None, 16),
    (DIGITS, [], "{workdir}/sample.png", 64),
    (DIGITS, ["--out=x.npz", "--num=20000"], "x.npz", 20000),
    (TEXT, ["--out=x.txt", "--num=3"], "x.txt", 3),
  ],
)
def test_samples_go_where_their_kind_does(run_on, monkeypatch, tmp_path, config, args, out, num):
  found = []
  workdir = run_on(config)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sample, "draw", lambda args, *rest: found.append((args.num, rest[-1])))
  sample.main([f"--workdir={workdir}", *args])
  expected = None if out is None else epath.Path(out.format(workdir=workdir))
  assert found == [(num, expected)]


def trained(workdir, module, **fields):
  """A workdir with a small teacher, of random parameters."""
  config = module.get_config()
  config.network.update({"width": 16, "depth": 1, "heads": 2})
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
  denoiser = build.make_denoiser(config, build.make_dataset(config))
  abstract = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  rng = np.random.default_rng(0)
  ema = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), abstract)
  folder = epath.Path(workdir / "teacher")
  now = records.depends(config, "teacher", {})
  records.begin(folder, now)
  with checkpoints.open_manager(folder / "checkpoints", 1) as manager:
    checkpoints.save(manager, 1, {"ema": ema}, {})
  records.finish(folder, now, {"step": 1, "digest": digest(ema)}, "cpu")
  return workdir


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory):
  return trained(tmp_path_factory.mktemp("digits"), digits_dmmd, network__classes=True)


def drawn(capsys, workdir, *args):
  sample.main([f"--workdir={workdir}", "--nfe=2", *args])
  return capsys.readouterr().out


def test_images_are_a_grid_and_an_array_of_the_same_samples(of_classes, tmp_path, capsys):
  printed = drawn(capsys, of_classes, "--num=5", "--seed=3")
  path = of_classes / "sample.png"
  assert printed == f"{path}: 5 images of the teacher, 2 NFE, seed 3\n"
  drawn(capsys, of_classes, "--num=6", "--seed=3", "--batch=3", f"--out={tmp_path}/x.npz")
  arrays = np.load(tmp_path / "x.npz")
  tokens = arrays["tokens"]
  assert tokens.shape == (6, 8, 8, 1) and tokens.dtype == np.uint8 and tokens.std() > 1
  assert arrays["labels"].tolist() == [0, 1, 2, 3, 4, 5]
  grid = np.asarray(Image.open(path))[::8, ::8, 0]
  np.testing.assert_array_equal(np.round(grid[9:17, 9:17] / 255 * 16), tokens[4, ..., 0])


def test_a_class_is_asked_for_and_guidance_takes_two_evaluations(of_classes, tmp_path, capsys):
  out = f"--out={tmp_path}/x.npz"
  assert "4 NFE" in drawn(capsys, of_classes, "--num=2", "--label=7", "--guidance=1.5", out)
  arrays = np.load(tmp_path / "x.npz")
  assert arrays["labels"].tolist() == [7, 7] and arrays["model"] == "teacher"
  assert (arrays["steps"], arrays["nfe"], arrays["seed"]) == (2, 4, 0)
  assert arrays["digest"] == records.find_model(of_classes, "teacher").digest
  expected = "--label is 10; digits has the classes 0 to 9"
  refuses(capsys, expected, f"--workdir={of_classes}", "--label=10", out)


def test_a_network_without_classes_is_guided_by_tokens(tmp_path, capsys):
  workdir = trained(tmp_path, text_dmmd)
  tokens = []
  for guidance in (0, 3):
    out = f"--out={tmp_path}/{guidance}.npz"
    assert "2 NFE" in drawn(capsys, workdir, "--num=4", f"--guidance={guidance}", out)
    tokens.append(np.load(tmp_path / f"{guidance}.npz")["tokens"])
  assert (tokens[0] != tokens[1]).mean() > 0.1


def test_a_sampler_is_asked_for_by_name_with_its_settings(
  of_classes, tmp_path, capsys, monkeypatch
):
  asked = []

  def make_draw(denoiser, nfe, temperature, top_p, sampler):
    asked.append(sampler)
    return lambda params, keys, labels: jnp.zeros((len(keys), 8, 8, 1), int)

  monkeypatch.setattr(drawing, "make_draw", make_draw)
  how = "--sampler=remdm", "--variant=rescale", "--eta=.5", "--grid=cosine", "--last_step=greedy"
  drawn(capsys, of_classes, "--num=3", f"--out={tmp_path}/x.npz", *how)
  found = np.load(tmp_path / "x.npz")
  assert "ReMDM(variant='rescale', eta=0.5), grid=Cosine(), ends_greedily" in str(found["sampler"])
  expected = ReMDM(variant="rescale", eta=0.5)
  assert asked == [Sampling(expected, Cosine(), ends_greedily=True)]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--eta=.1"], "unrecognized arguments: --eta=.1; eta is a setting of --sampler=remdm"),
    (["--sampler=remdm", "--etta=.1"], "arguments: --etta=.1; did you mean --eta?"),
    (["--sampler=remask"], "argument --sampler: invalid choice: 'remask'"),
    (["--sampler=remdm", "--eta=2"], "argument --eta: found '2'; expected a number (float32) in"),
    (["--sampler=remdm", "--gamma=1"], "unrecognized arguments: --gamma=1"),
    (["--sampler=psi", "--begin=.1", "--end=.2"], "psi.begin is 0.1 and psi.end is 0.2"),
    (["--sampler=threshold", "--block=4"], "a sampler's block is 4; expected 0, or for sequences"),
  ],
)
def test_samplers_that_do_not_fit_the_run_are_refused(run_on, capsys, options, message):
  refuses(capsys, message, f"--workdir={run_on(DIGITS)}", *options)


def test_a_student_that_is_drawn_in_a_way_of_its_own_takes_no_sampler(run_on, capsys):
  config = digits_dmmd.get_config()
  config.distill.method = "dimo"
  workdir = run_on(config)
  (workdir / "distill").mkdir()
  for how in ("--sampler=p2", "--grid=cosine", "--last_step=greedy"):
    refuses(capsys, "a student of dimo is drawn in a way", f"--workdir={workdir}", how)
  with pytest.raises(AssertionError, match="went on"):
    sample.main([f"--workdir={workdir}", "--model=teacher", "--sampler=p2"])


@pytest.mark.parametrize(
  ("options", "expected"),
  [([], 3), (["--model=teacher"], 16), (["--nfe=5"], 5), (["--model=teacher", "--nfe=5"], 5)],
)
def test_a_student_takes_the_steps_that_it_is_made_for(run_on, monkeypatch, options, expected):
  config = digits_dmmd.get_config()
  config.distill.student_nfe = 3
  workdir = run_on(config)
  (workdir / "distill").mkdir()
  asked = []
  monkeypatch.setattr(sample, "draw", lambda args, *_: asked.append(args.nfe))
  sample.main([f"--workdir={workdir}", *options])
  assert asked == [expected]


def test_sequences_are_lines_of_tokens(tmp_path, capsys):
  printed = drawn(capsys, trained(tmp_path, coins_dmmd), "--num=5", "--batch=2")
  lines = [line.split() for line in printed.splitlines()]
  assert len(lines) == 5 and all(len(x) == 2 and {*x} <= {"0", "1"} for x in lines)


def test_a_file_that_cannot_be_written_after_all_is_one_line(monkeypatch):
  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(sample_files, "save", fail)
  found = sample_files.Samples("images", np.zeros((1, 8, 8, 1)), 17, {})
  with pytest.raises(ValueError, match=r"cannot write x.png \(No space left on device\)"):
    sample._write(epath.Path("x.png"), found, str)
