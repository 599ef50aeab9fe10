"""CIFAR-10 on two CPU cores: which optimizer and regularizer keep the most accuracy of a small network at 90%?

28 arms at equal budgets: hours. `python -m benchmarks.study` trains them in two sweeps and writes docs/study.md.
"""

from search_spaces import small_cifar10
from service import Sweep
from trainables.config import TrialConfig

SWEEP = Sweep(
    name="cifar10_methods",
    trial=TrialConfig(
        dataset="cifar10",
        architecture="small_resnet",
        model={"width": 8, "depth": 3},
        train_size=5000,
        target_sparsity=0.9,
        sparsities=(0.8, 0.95, 0.98),
        max_epochs=8,  # 624 steps: the search space has values for about this number
        batch_size=64,
        opt={"lr": 0.1, "weight_decay": 5e-3},
        lr_schedule="one_cycle",
        num_evaluations=1,
    ),
    search=small_cifar10.SEARCH_SPACE,
    optimizer=("sgd", "sam", "s2sam", "friendly_sam", "cram", "sfw", "safe"),
    regularizer=("none", "l1", "hoyer_square", "wcr"),
    sampler="gp",
    num_trials=12,
    num_finalists=4,  # one seed is too few to select a configuration
    num_seeds=10,
    race=False,  # every planned comparison has all ten seeds
)

if __name__ == "__main__":
    SWEEP.main()
