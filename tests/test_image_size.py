"""`configs/images_dmmd.py` on small images that packages ship, as folders and npz files."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import own_images
from dmmd_jax import config as checks
from dmmd_jax import config_file, experiment, records
from dmmd_jax.image_size import settle

PATH = "configs/images_dmmd.py"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A folder with `<images>` and `<images>.npz` for digits and for crops of photographs."""
  root = tmp_path_factory.mktemp("images")
  digits = own_images.digits()
  for name, data in (
    ("digits", (digits[0][:120], digits[1][:120])),
    ("crops", own_images.crops(num=120)),
  ):
    splits = own_images.split(data)
    own_images.write_folder(root / name, splits)
    own_images.write_npz(root / f"{name}.npz", splits)
  return root


def load(*overrides):
  config, given = config_file.load(PATH, dict(overrides))
  settle(config, given)
  checks.check(config)
  return config


def load_images(path, *overrides):
  kind = "npz" if path.suffix else "folder"
  return load(("dataset.name", kind), ("dataset.path", str(path)), *overrides)


def settled(shape, **overrides):
  """The config for images of a shape that is given by hand."""
  return load(("dataset.name", "stripes"), ("dataset.shape", str(shape)), *overrides.items())


@pytest.mark.parametrize("suffix", ["", ".npz"])
@pytest.mark.parametrize(
  ("name", "shape", "preset"), [("digits", (28, 28, 1), "28"), ("crops", (32, 32, 3), "32")]
)
def test_the_files_say_which_shape_and_preset(written, name, suffix, shape, preset, capsys):
  config = load_images(written / f"{name}{suffix}")
  assert (config.dataset.shape, config.preset, config.network.patch) == (shape, preset, 4)
  assert config.teacher.batch_size == config.presets[preset].teacher.batch_size
  assert not config.dataset.flip
  height, width, channels = shape
  assert capsys.readouterr().out == (
    f"images of {height} x {width} pixels, {channels} channel(s), preset {preset}, patch 4\n"
  )


def test_what_is_given_by_hand_holds(written):
  config = load_images(
    written / "digits.npz",
    ("preset", "64"), ("teacher.batch_size", "7"), ("network.patch", "2"), ("dataset.flip", "true"),
  )  # fmt: skip
  assert (config.preset, config.teacher.batch_size, config.network.patch) == ("64", 7, 2)
  assert config.network.width == config.presets["64"].network.width and config.dataset.flip
  assert max(window for window, *_ in config.distill.score.scales) == 16  # 32 does not fit
  with pytest.raises(checks.ConfigError, match="expected 0 <= window <= 28 for npz"):
    load_images(written / "digits.npz", ("distill.score.scales", "((32, 16, (8.0,)),)"))
  without = load_images(written / "digits.npz", ("preset", ""))
  assert without.preset == "" and without.network.patch == 4


@pytest.mark.parametrize(
  ("shape", "preset", "patch"),
  [
    ((8, 8, 1), "28", 4),
    ((30, 30, 3), "32", 5),
    ((20, 28, 1), "28", 4),
    ((49, 49, 3), "64", 7),
    ((64, 20, 3), "64", 4),
    ((256, 256, 3), "64", 4),
  ],
)
def test_other_sizes_take_the_nearest_preset_and_a_patch_that_divides(shape, preset, patch):
  scales = "((0, 1, (8.0,)),)"  # windows fit into all of them
  config = settled(shape, **{"distill.score.scales": scales})
  assert (config.preset, config.network.patch) == (preset, patch)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({}, "dataset.path is ''; name a folder of PNG files"),
    ({"dataset.name": "npz", "dataset.path": "none.npz"}, "cannot read none.npz: no such file"),
    ({"dataset.name": "stripes"}, "dataset.shape is (), and stripes have no files"),
    (
      {"dataset.name": "stripes", "dataset.shape": "(31, 29, 1)"},
      "images of 31 x 29 pixels cannot be cut into squares of 2 to 8 pixels; pad, crop or resize"
      " them, for instance to 32 x 32, or set network.patch=1",
    ),
    ({"dataset.name": "stripes", "dataset.shape": "(8,)"}, "or () for what the files say"),
  ],
)
def test_what_cannot_be_settled_is_one_line(overrides, message):
  with pytest.raises(checks.ConfigError) as error:
    load(*overrides.items())
  assert message in str(error.value) and "\n" not in str(error.value)


def test_a_config_without_sizes_has_no_automatic_preset():
  for path in ("configs/cifar_dmmd.py", "configs/text_dmmd.py"):
    config, given = config_file.load(path, {"preset": "auto"})
    with pytest.raises(checks.ConfigError, match=r"preset is 'auto'.*expected images"):
      settle(config, given)


def test_a_patch_is_chosen_for_images_of_ones_own_alone():
  config, given = config_file.load("configs/digits_dmmd.py", {"network.patch": "0"})
  settle(config, given)
  with pytest.raises(checks.ConfigError, match=r"network.patch is 0; expected a divisor"):
    checks.check(config)


def test_a_shape_that_was_not_settled_is_refused():
  config, _ = config_file.load(PATH, {"dataset.path": "images"})
  with pytest.raises(checks.ConfigError, match=r"dataset.shape is \(\), and was not read"):
    checks.check(config)


def test_one_file_of_another_size_is_named(written, tmp_path):
  """The headers of all files are not read before training; the files are."""
  from dmmd_jax.data.images import ImageError
  from dmmd_jax.phases import build

  own_images.write_folder(tmp_path, {"train": own_images.crops(num=12, size=8)})
  odd = sorted(tmp_path.rglob("*.png"))[-1]
  Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(odd)
  config = load_images(tmp_path, ("distill.score.scales", "((0, 1, (8.0,)),)"))
  with pytest.raises(ImageError, match=f"{odd.name} is RGB of 8x9 pixels; expected RGB of 8x8"):
    build.make_dataset(config)


def test_a_run_from_a_folder_records_the_real_shape(written, tmp_path):
  config = load_images(
    written / "digits",
    ("phases", "teacher"), ("run.tensorboard", "false"), ("network.width", "16"),
    ("network.depth", "1"), ("network.heads", "2"), ("network.embed_dim", "4"),
    ("network.patch", "7"), ("teacher.num_steps", "2"), ("teacher.batch_size", "8"),
  )  # fmt: skip
  experiment.run(config, tmp_path)
  recorded = records.find_model(tmp_path, "teacher").config
  assert recorded.dataset.shape == (28, 28, 1) and recorded.network.patch == 7
