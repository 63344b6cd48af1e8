"""Fields of the section `network` of a config. Pure Python."""

from dmmd_jax.rules import Choice, Field, Flag, Items, Real, Whole, section

DTYPE = Choice(("float32", "bfloat16"))
# Networks of token sequences that others have trained.
PRETRAINED = ("dit", "llama")

NETWORK = section(
  "network",
  name=Field(
    Choice(("transformer", "uvit", *PRETRAINED)),
    "uvit is for images, see configs/cifar_dmmd.py; dit is that of MDLM, SEDD, BD3-LM and Duo,"
    " llama that of LLaDA and Dream, see docs/teachers.md.",
  ),
  width=Field(Whole(1, 2**16), "Features of a position of the transformer."),
  depth=Field(Whole(1, 2**10), "Layers of the transformer."),
  heads=Field(Whole(1, 2**10), "Heads of attention."),
  mlp_ratio=Field(
    Whole(1, 64),
    "Hidden features of a layer's perceptron, in widths.",
    ("transformer", "uvit", "dit"),
  ),
  embed_dim=Field(
    Whole(1, 2**16),
    "Features of one token before they are folded to a position.",
    ("transformer", "uvit"),
  ),
  classes=Field(Flag(), "Whether to condition on the labels of the data set."),
  dropout=Field(Real("[0, 1)"), "Of the teacher, in training; to the nearest 1/256."),
  dtype=Field(DTYPE, "Of the computation; parameters and losses are float32."),
  remat=Field(
    Choice(("none", "full", "narrow", "products")),
    "What the backward pass computes again in place of storing it: none | full (all but the"
    " layers' inputs) | narrow (all but those and products of the network's width) | products"
    " (all but matrix products).",
  ),
  patch=Field(
    Whole(),
    "Images: p x p pixels are one position of the transformer; 0, where a config has"
    " dataset.shape, is the common divisor of the sides that is nearest to 4. Sequences: p tokens.",
    ("transformer",),
  ),
  positions=Field(Choice(("rotary", "learned")), "How positions are told.", ("transformer",)),
  conv=Field(
    Whole(0, 2**8),
    "Sequences: neighbours that a depthwise convolution mixes before attention; 0 is none.",
    ("transformer",),
  ),
  block=Field(
    Whole(),
    "Sequences: tokens of a block, drawn together given the blocks before it; 0 is all of them.",
    ("transformer", "dit"),
  ),
  vocab_size=Field(
    Whole(2, 2**24), "Rows of the table of tokens, the mask and unused ones among them.", PRETRAINED
  ),
  mask_token=Field(
    Whole(-1, 2**24), "The row of the mask; -1 for uniform diffusion, which has none.", PRETRAINED
  ),
  cond_dim=Field(
    Whole(0, 2**16), "Features of what layers are modulated by; 0 is nothing.", ("dit",)
  ),
  time=Field(
    Choice(("none", "sigma")), "Whether it knows the time, as -log alpha(t), or not.", ("dit",)
  ),
  kv_heads=Field(
    Whole(1, 2**10), "Heads of keys and values, which those of queries share.", ("llama",)
  ),
  hidden=Field(Whole(1, 2**20), "Hidden features of a layer's perceptron.", ("llama",)),
  rotary_base=Field(
    Real("[1, 1e12]"), "The longest wavelength of positions, over 2 pi.", ("llama",)
  ),
  norm_epsilon=Field(Real("(0, 0.1]"), "Added to the mean square before its root.", ("llama",)),
  qkv_bias=Field(Flag(), "Whether queries, keys and values have a bias, as in Qwen.", ("llama",)),
  shifted=Field(
    Flag(), "Whether logits at a position are of the token after it, as in Dream.", ("llama",)
  ),
  channels=Field(
    Items(Whole(1, 2**16)),
    "Features at full resolution, at half of it, and so on; the transformer works at half the"
    " last.",
    ("uvit",),
  ),
  res_blocks=Field(Whole(1, 64), "Residual blocks per resolution and way.", ("uvit",)),
)
