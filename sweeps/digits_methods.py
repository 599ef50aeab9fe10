"""Digits: every optimizer with every regularizer at equal budgets. Which keeps the most accuracy at 96% sparsity?

Eight configurations of two seeds for each of 56 arms, then twelve unseen seeds for the best of each: hours.
`python -m benchmarks.digits_methods` runs it, resumably, and writes docs/methods-on-digits.md from its records.
"""

from search_spaces import small_cnn
from service import Sweep
from trainables.config import TrialConfig

SWEEP = Sweep(
    name="digits_methods",
    trial=TrialConfig(
        dataset="digits",
        architecture="small_resnet",
        model={"width": 16, "depth": 3},
        target_sparsity=0.96,
        sparsities=(0.9, 0.94, 0.98),
        max_epochs=40,
        batch_size=64,
        opt={"lr": 0.1, "weight_decay": 3e-2},
        lr_schedule="one_cycle",
        num_evaluations=1,
    ),
    search=small_cnn.SEARCH_SPACE,
    optimizer=("sgd", "adamw", "sam", "s2sam", "cram", "sfw", "friendly_sam", "safe"),
    regularizer=("none", "l1", "hoyer_square", "wcr", "l0_hard_concrete", "concave_mask", "weight_factorization"),
    sampler="tpe",  # as its first 36 arms were searched
    num_trials=8,
    num_search_seeds=2,
    num_seeds=12,
    race=False,  # every planned comparison has all twelve seeds
    keep="none",
)

if __name__ == "__main__":
    SWEEP.main()
