"""The methods by name, and their settings. Pure Python until a method is asked for."""

import dataclasses
import pkgutil

# Module of dmmd_jax.distillation and class, whose docstring says what it is; see docs/methods.md.
METHODS = {
  "dmmd": "dmmd.DMMD",
  "kernel_score": "kernel_score.KernelScore",
  "dmmd_kernel": "dmmd_kernel.DMMDKernel",
  "sdtt": "sdtt.SDTT",
  "dcd": "dcd.DCD",
  "di4c": "di4c.Di4C",
  "dimo": "dimo.DiMO",
  "idlm": "idlm.IDLM",
  "didi": "didi.DiDi",
  "redi": "redi.ReDi",
  "continued": "continued.Continued",
}


def find(name: str) -> type:
  """The class of a method; one that is no part of the package may itself be in `METHODS`."""
  if name not in METHODS:
    raise LookupError(f"no method {name!r} in dmmd_jax.distillation.registry.METHODS")
  found = METHODS[name]
  if isinstance(found, type):
    return found
  return pkgutil.resolve_name(f"dmmd_jax.distillation.{found}")


def settings(method: type) -> dict[str, type]:
  """The settings of a method, dataclasses by the names of their sections of a config."""
  fields = dataclasses.fields(method)
  return {field.name: field.default_factory for field in fields if field.name != "parts"}


def sections() -> dict[str, type]:
  """The settings of all methods by section; several methods may share one."""
  return {name: cls for method in METHODS for name, cls in settings(find(method)).items()}
