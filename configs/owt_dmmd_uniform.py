"""OpenWebText, 1024 tokens of GPT-2's byte pairs, uniform, D-MMD: the paper's Table 2.

Needs what owt_dmmd needs. The paper's Gradient Moments under GPT-2 (arXiv 2603.20155): uniform
teacher with top-p 0.5: 0.310 at 512 steps; uniform D-MMD with top-p 0.7: 0.307 at 32. Not yet run
by us.
"""

from configs import digits_dmmd, owt_dmmd


def get_config():
  config = digits_dmmd.make_uniform(owt_dmmd.get_config())
  config.distill.top_p = 0.7
  config.evaluate.teacher_top_p = 0.5
  return config
