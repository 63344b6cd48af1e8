"""Writes `golden_gpt2/`: a small random GPT-2 of `transformers`, its logits, and a Gradient Moment.

Needs torch and transformers: `python -m tests.networks.make_golden_gpt2`.
"""

import json
import pathlib

FOLDER = pathlib.Path(__file__).parent / "golden_gpt2"
BATCH = 8


def main() -> None:
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.GPT2Config(
    vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0.0
  )
  model = transformers.GPT2LMHeadModel(config).eval()
  with torch.no_grad():  # as initialised it is too plain: biases are 0 and norms are 1
    for parameter in model.parameters():
      parameter += 0.2 * torch.randn_like(parameter)
  tokens = torch.randint(40, (4 * BATCH, 12))

  def gradient(x):
    logits = model(x).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 40), x[:, 1:].reshape(-1))
    return torch.cat([g.ravel() for g in torch.autograd.grad(loss, list(model.parameters()))])

  parts = [gradient(x).detach() for x in tokens.split(BATCH)]  # samples 1, 2, data 1, 2
  moment = torch.dot(parts[0] - parts[2], parts[1] - parts[3])
  model.save_pretrained(FOLDER)
  for unwanted in FOLDER.glob("generation_config.json"):
    unwanted.unlink()
  golden = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "tokens": tokens.tolist(),
    "logits": [
      [[round(v, 7) for v in row] for row in x] for x in model(tokens[:2]).logits.tolist()
    ],
    "gradient_moment": moment.item(),
  }
  (FOLDER / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
  main()
