from benchmarks import scaling_report
from configs import cifar_dmmd, cifar_dmmd_uniform


def test_a_step_takes_as_long_as_what_takes_longest():
  machine = scaling_report.Target("", "chip", 4, 100.0, 0.0, 10.0, 5.0)
  times = scaling_report.times(machine, 100.0 * scaling_report.UTILISATION, 30.0, 5.0)
  assert times == (1.0, 3.0, 1.0)
  assert (times.overlapped, times.in_turn) == (3.0, 4.0)


def test_both_halves_of_the_table_cost_the_same():
  """As docs/scaling.md says, which compiles the first alone."""
  halves = [module.get_config() for module in (cifar_dmmd, cifar_dmmd_uniform)]
  masked, uniform = (
    [
      config.network,
      *(config.teacher[name] for name in ("num_steps", "batch_size", "microbatches")),
      *(config.distill[name] for name in ("num_steps", "batch_size", "updates", "method")),
      config.evaluate,
    ]
    for config in halves
  )
  assert masked == uniform
