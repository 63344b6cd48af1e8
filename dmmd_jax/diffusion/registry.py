"""The samplers by name, and their settings. Pure Python until a sampler is asked for."""

import dataclasses
import pkgutil

# Module of dmmd_jax.diffusion.samplers and class, whose fields are its settings; see
# docs/samplers.md.
SAMPLERS = {
  "ancestral": "ancestral.Ancestral",
  "confidence": "revealing.Confidence",
  "entropy_bounded": "revealing.EntropyBounded",
  "threshold": "revealing.Threshold",
  "remdm": "remasking.ReMDM",
  "psi": "remasking.Psi",
  "p2": "remasking.P2",
}
GRIDS = ("even", "cosine", "log_snr", "own")


def find(name: str) -> type:
  """The class of a sampler; one that is no part of the package may itself be in `SAMPLERS`."""
  if name not in SAMPLERS:
    raise LookupError(f"no sampler {name!r} in dmmd_jax.diffusion.registry.SAMPLERS")
  found = SAMPLERS[name]
  if isinstance(found, type):
    return found
  return pkgutil.resolve_name(f"dmmd_jax.diffusion.samplers.{found}")


def sections() -> dict[str, type]:
  """The samplers that have settings, dataclasses by the names of their sections of a config."""
  found = {name: find(name) for name in SAMPLERS}
  return {name: cls for name, cls in found.items() if dataclasses.fields(cls)}
