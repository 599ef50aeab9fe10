"""Digits with a small ResNet: which optimizer, regularizer, lam and rho keep accuracy once 96% of weights are removed?

Runs from embedded data in minutes. The weight decay is high on purpose: in a run this short, networks without a
regularizer then lose accuracy at 96%, as they do after long training with a usual weight decay.
"""

from search_spaces import small_cnn
from service import Sweep
from trainables.config import TrialConfig

SWEEP = Sweep(
    trial=TrialConfig(
        dataset="digits",
        architecture="small_resnet",
        model={"width": 16, "depth": 3},
        target_sparsity=0.96,
        sparsities=(0.9, 0.94, 0.98),
        max_epochs=30,
        batch_size=64,
        opt={"lr": 0.1, "weight_decay": 3e-2},
        lr_schedule="one_cycle",
    ),
    search=small_cnn.SEARCH_SPACE,
    optimizer=("sgd", "s2sam"),
    num_trials=2,
    num_search_seeds=2,
    num_seeds=3,
)

if __name__ == "__main__":
    SWEEP.main()
