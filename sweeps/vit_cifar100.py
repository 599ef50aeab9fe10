"""CIFAR-100 with a pretrained ViT-B/32: which optimizer, regularizer, lam and rho keep accuracy with 80% removed?

The defaults are the setting of the WCR paper (arXiv 2511.14282, tables 4 and 5), pruned uniformly over query, key,
value, projection and FFN; --task-arg prune=q, qk or qkv is its section D.2. It states neither the checkpoint nor the
weight decay: these are Google's ImageNet-21k weights, and none, as in the ViT paper's fine-tuning.

Without the hub: --model pretrained=FOLDER, of a checkpoint as transformers saves it. From random weights: --model
pretrained= and, to scale it down, sizes: --model image_size=32 --model patch_size=8 --model hidden_size=64 ...
"""

from search_spaces import vit
from service import Sweep
from trainables.config import TrialConfig

SWEEP = Sweep(
    name="vit_cifar100",
    trial=TrialConfig(
        task="vit",
        dataset="cifar100",
        architecture="vit",
        model={"pretrained": "google/vit-base-patch32-224-in21k"},
        scope="uniform",
        target_sparsity=0.8,
        sparsities=(0.6, 0.7),
        max_epochs=200,
        batch_size=128,
        opt={"lr": 1e-3, "weight_decay": 0.0},
        lr_schedule="step_decay",
    ),
    search=vit.SEARCH_SPACE,
    num_trials=6,
)

if __name__ == "__main__":
    SWEEP.main()
