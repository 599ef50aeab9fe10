"""Lottery tickets on digits: how accurate is a network trained with 40, 20, 10, 5 or 2% of its weights, chosen how?

Arms: iterative magnitude pruning, and relaxed masks with a log or an l1 penalty (arXiv 2501.11135), cut by rank down to
each sparsity or by threshold. Unlike in the other sweeps, what is left is rewound and trained again.
"""

from search_spaces import lottery
from service import Sweep
from trainables.config import TrialConfig

SWEEP = Sweep(
    name="lottery",
    trial=TrialConfig(
        dataset="digits",
        architecture="small_resnet",
        model={"width": 16, "depth": 3},
        target_sparsity=0.95,
        sparsities=(0.6, 0.8, 0.9, 0.98),
        max_epochs=15,
        batch_size=64,
        opt={"lr": 0.1, "weight_decay": 5e-4},
        lr_schedule="one_cycle",
        num_evaluations=1,
    ),
    search=lottery.SEARCH_SPACE,
    num_trials=4,
)

if __name__ == "__main__":
    SWEEP.main()
