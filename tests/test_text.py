"""A user's own texts, from the command line: train, distil, measure, print; in blocks."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.test_hosts import finish, start
from tests.test_new_user import as_printed

WORDS = ("old new red big wet odd", "cat dog man cow fox", "two six ten no")
SENTENCES = [
  "The {} {} sees {} birds.".format(*x) for x in itertools.product(*map(str.split, WORDS))
]
# What README.md says, and sizes.
AS_PRINTED = [
  "--config=configs/text_dmmd.py",
  "--config.dataset.name=textfile",
  "--config.dataset.alphabet=printable",
]
SIZES = [
  "--config.dataset.length=16",
  "--config.run.tensorboard=False",
  "--config.network.width=16",
  "--config.network.depth=1",
  "--config.network.heads=2",
  "--config.network.block=8",
  "--config.reference.num_steps=30",
  "--config.teacher.num_steps=30",
  "--config.distill.num_steps=5",
  "--config.distill.method=dmmd_kernel",
  "--config.distill.score.scales=((0,1,(2.0,)),)",
  "--config.evaluate.teacher_nfe=(2,)",
  "--config.evaluate.student_nfe=(2,)",
  "--config.evaluate.num_sample_batches=2",
  "--config.evaluate.sample_batch_size=8",
]


@pytest.fixture(scope="module")
def run(programs):
  return lambda module, *args: programs.run(f"dmmd_jax.{module}", args)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("home")
  (folder / "texts").mkdir()
  (folder / "texts" / "a.txt").write_text("\n\n".join(SENTENCES))
  return folder


@pytest.fixture(scope="module")
def trained(home, programs):
  """A workdir with all phases, and what they printed."""
  said = as_printed(programs, home, f"python -m dmmd_jax.main {AS_PRINTED[0]}", *SIZES)
  return home / "runs" / "texts", said


def test_one_command_trains_distils_and_measures_the_users_texts(trained):
  workdir, printed = trained
  evaluate = workdir / "evaluate"
  results = json.loads((evaluate / "results.json").read_text())
  models = {(r["model"], r["nfe"]) for r in results["rows"] if r["metric"] == "gradient_moment"}
  # In blocks: two steps, and one evaluation that writes the block to the cache.
  assert models == {("teacher", 3), ("student", 3), ("autoregressive", 16)}
  assert {"Teacher (upper bound)", "Trigram model, Kneser-Ney"} == set(results["bits_per_token"])
  assert results["reference_split"] == "validation"
  # Two blocks of eight texts are too few for an error to hold on to.
  moments = {r["model"]: r["value"] for r in results["rows"] if r["metric"] == "gradient_moment"}
  assert abs(results["reference"]["gradient_moment"][0]) < moments["teacher"] / 2
  assert "sha256" in printed and "bits per token of the held-out split" in printed
  samples = (evaluate / "samples.md").read_text()
  assert "## student, 2 steps" in samples and samples.count("---") == 3 * 7
  page = (evaluate / "report.html").read_text()
  assert "autoregressive" in page and 'class="film"' in page and page.count("<blockquote>") == 4 * 4
  # Two blocks of the eight steps that the student is made for, after the beginning; the reference
  # model has no film.
  with Image.open(evaluate / "film.gif") as film:
    assert film.n_frames == 17


def test_a_brief_evaluation_measures_teacher_and_student_alike(programs, home, trained, tmp_path):
  shutil.copytree(trained[0], tmp_path / "run")
  command = [
    *AS_PRINTED, *SIZES, f"--config.dataset.path={home / 'texts'}", "--config.evaluate.brief=True",
    "--config.phases=('evaluate',)", f"--workdir={tmp_path}/run",
  ]  # fmt: skip
  done = programs.run("dmmd_jax.main", command)
  assert done.code == 0, done.err
  full, brief = (
    json.loads((path / "evaluate" / "results.json").read_text())
    for path in (trained[0], tmp_path / "run")
  )
  assert brief["rows"] == [row for row in full["rows"] if row["model"] != "autoregressive"]
  assert brief["bits_per_token"] == {}
  assert not (tmp_path / "run" / "evaluate" / "film.gif").exists()


def test_two_processes_measure_what_one_does(programs, home, trained, tmp_path):
  without = shutil.ignore_patterns("evaluate", "distill")  # a student is no other network
  shutil.copytree(trained[0], tmp_path / "run", ignore=without)
  command = [
    *AS_PRINTED, *SIZES, f"--config.dataset.path={home / 'texts'}",
    "--config.phases=('evaluate',)", "--config.run.mesh=(1,-1,1)", f"--workdir={tmp_path}/run",
  ]  # fmt: skip
  finish(start(programs, command, 2, devices=2))
  one, two = (
    json.loads((path / "evaluate" / "results.json").read_text())
    for path in (trained[0], tmp_path / "run")
  )
  common = [row for row in one["rows"] if row["model"] != "student"]
  for a, b in zip(common, two["rows"], strict=True):
    name = a["model"], a["metric"]
    assert name == (b["model"], b["metric"])
    assert a["value"] == pytest.approx(b["value"], rel=1e-3, abs=1e-5), name


def test_text_is_printed_with_its_prompt(programs, run, home, trained):
  text = as_printed(programs, home, "python -m dmmd_jax sample --workdir=runs/texts", "--nfe=1")
  assert text.startswith("Once upon") and len(text.strip("\n")) == 16
  workdir = f"--workdir={trained[0]}"
  done = run("sample", workdir, "--prompt=The old ca", "--nfe=2", "--num=2")
  assert done.code == 0, done.err
  assert re.fullmatch("─── 1 of 2 ───\nThe old ca.*─── 2 of 2 ───\nThe old ca.*", done.out, re.S)
  other = run("sample", workdir, "--prompt=The old ca", "--nfe=2", "--num=2", "--seed=1")
  assert other.code == 0 and other.out != done.out


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--prompt=" + 16 * "x"], "the prompt has 16 tokens, a whole text 16"),
    (["--prompt=привет"], "not in the alphabet"),
    (["--workdir=nowhere"], "nowhere does not exist"),
  ],
)
def test_what_cannot_be_printed_is_one_clear_line(run, trained, args, message):
  done = run("sample", f"--workdir={trained[0]}", *args)
  assert done.code == 2 and message in done.err, done.err
  assert done.err.count("\n") == 1


def test_anyones_samples_are_measured(run, trained, tmp_path):
  rng = np.random.default_rng(0)
  np.save(tmp_path / "a.npy", rng.integers(96, size=(40, 16)))
  np.save(tmp_path / "b.npy", rng.integers(90, size=(50, 16)))
  left = trained[0] / "evaluate"
  done = run(
    "metrics", left / "samples_student_3.npz", f"--reference={trained[0]}",
    f"--data={left}/samples_real.npz", "--batch_size=3",
  )  # fmt: skip
  assert done.code == 0, done.err
  assert re.search(r"gradient_moment +[-\d.e]+ +[\d.e-]+\n", done.out), done.out
  assert "16 samples of 16 tokens" in done.out
  args = [tmp_path / "a.npy", f"--reference={trained[0]}", f"--data={tmp_path}/b.npy"]
  for more in ([], ["--batch_size=8"]):
    np.save(tmp_path / "c.npy", rng.integers(97, size=(40, 16)))
    done = run("metrics", tmp_path / ("c.npy" if more else "a.npy"), *args[1:], *more)
    expected = "knows 0 to 95" if more else "make no pair of minibatches of 64"
    assert done.code == 2 and expected in done.err, done.err


def test_gpt2_is_a_reference_too(run, tmp_path):
  np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(40, size=(8, 10)))
  done = run(
    "metrics", tmp_path / "a.npy", "--reference=tests/networks/golden_gpt2", "--batch_size=2",
    "--json",
  )  # fmt: skip
  result = json.loads(done.out)["metrics"]
  assert result["uncentred_gradient_moment"]["stderr"] > 0 and result["perplexity"]["value"] > 5


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "holds no files"),
    (b"\0\1", "not text"),
    (b"a", "too short"),
    ("\n\n".join(SENTENCES).encode(), "at least evaluate.sample_batch_size (999)"),
  ],
)
def test_unusable_texts_end_in_one_line_before_anything_is_written(run, tmp_path, content, message):
  (tmp_path / "texts").mkdir()
  if content:
    (tmp_path / "texts" / "a.txt").write_bytes(content)
  args = [f"--config.dataset.path={tmp_path}/texts", "--config.evaluate.sample_batch_size=999"]
  done = run("main", *AS_PRINTED, *SIZES, *args, f"--workdir={tmp_path}/run")
  assert done.code == 2 and message in done.err
  assert done.err.count("\n") == 1 and not (tmp_path / "run").exists()
