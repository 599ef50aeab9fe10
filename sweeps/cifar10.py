"""CIFAR-10 with ResNet-18: which optimizer, regularizer, lam and rho keep accuracy once 96% of weights are removed?

The defaults are the setting of the WCR paper (arXiv 2511.14282, tables 4 and 5). It does not state its
weight decay; 5e-4 is usual for these networks.
"""

from search_spaces import cnn
from service import Sweep
from trainables.config import TrialConfig

SWEEP = Sweep(
    trial=TrialConfig(
        dataset="cifar10",
        architecture="resnet18",
        target_sparsity=0.96,
        sparsities=(0.9, 0.92, 0.94, 0.97, 0.98),
        max_epochs=200,
        batch_size=128,
        opt={"lr": 0.1, "weight_decay": 5e-4},
        lr_schedule="dynamic_tuning",
    ),
    search=cnn.SEARCH_SPACE,
    num_trials=6,
)

if __name__ == "__main__":
    SWEEP.main()
