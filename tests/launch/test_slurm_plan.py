"""launch/slurm.sbatch, but for what needs a real Slurm: that is in tests/test_slurm.py."""

import pytest

from tests.launch.conftest import PHASES, RUN, refused


def test_slurm_plan(shell):
  run, _, requeue = shell.plan("slurm.sbatch", "--dry-run", PHASES, **RUN, VENV="/v")
  assert run == [
    *("srun", "--kill-on-bad-exit=0", "/v/bin/python", "-m", "dmmd_jax.main"),
    *("--config=configs/coins_dmmd.py", "--workdir=/runs/mine", PHASES),
  ]
  assert requeue == ["scontrol", "requeue", "JOB"]


def test_slurm_refuses(shell):
  refused(shell.run("slurm.sbatch", WORKDIR="w"), "CONFIG")
  refused(shell.run("slurm.sbatch", "--dry-run", CONFIG="c"), "WORKDIR")
  refused(shell.run("slurm.sbatch", **RUN), "sbatch")
  assert not shell.calls()


@pytest.mark.parametrize(("tasks", "ids"), [("2", "0,1,2,3"), ("8", "")])
def test_slurm_gives_a_task_that_is_alone_on_its_node_all_gpus(shell, tasks, ids):
  shell.stand_in("srun", f'echo "ids $JAX_LOCAL_DEVICE_IDS cpus $SRUN_CPUS_PER_TASK" >>{shell.log}')
  job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "12"}
  done = shell.run("slurm.sbatch", **RUN, **job, SLURM_GPUS_ON_NODE="4", SLURM_NTASKS=tasks)
  assert done.returncode == 0, done.stderr
  assert shell.calls()[1] == f"ids {ids} cpus 12"
