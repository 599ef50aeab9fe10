"""LGG brain MRI with a ResNet-50 UNet: what keeps the tumour's outline once 85% of the weights are removed?

The defaults are the setting of the WCR paper (arXiv 2511.14282, tables 2, 4 and 5). It states neither loss, weight
decay, augmentation nor the split: the loss is cross-entropy and Dice, patients are split 60/20/20 by name, and a trial
ends after 30 epochs without a better F1. The data is on Kaggle (mateuszbuda/lgg-mri-segmentation): --data-root takes
its folder or its archive. For a laptop: --data image_size=64 --model encoder=mobilenet_v2 --model decoder_width=4.
"""

from search_spaces import unet
from service import Sweep
from trainables.config import TrialConfig

SWEEP = Sweep(
    name="lgg_unet",
    trial=TrialConfig(
        task="unet",
        dataset="lgg",
        data={"image_size": 256},
        architecture="unet",
        model={"encoder": "resnet50", "decoder_width": 16},
        target_sparsity=0.85,
        sparsities=(0.5, 0.7, 0.8, 0.88, 0.92, 0.96),
        max_epochs=200,
        patience=6,
        num_evaluations=40,
        batch_size=64,
        opt={"lr": 1e-2, "weight_decay": 5e-4},
        lr_schedule="step_decay",  # x0.5 every 50 epochs
    ),
    search=unet.SEARCH_SPACE,
    num_trials=6,
)

if __name__ == "__main__":
    SWEEP.main()
