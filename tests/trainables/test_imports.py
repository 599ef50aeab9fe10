import subprocess
import sys

HEAVY = {"transformers", "peft", "segmentation_models_pytorch", "timm", "tokenizers", "huggingface_hub"}

TRIAL = f"""
import sys
import service.driver, sweeps.digits
from trainables.config import TrialConfig
from trainables.loop import load_task, train
sweep = sweeps.digits.SWEEP
arm = sweep.arms()[-1]
config = sweep.trial_config(arm.choices, arm.known, max_epochs=1, train_size=64)
train(load_task(config), config)
print(sorted({HEAVY!r} & sys.modules.keys()))
"""


def test_digits_sweep_imports_no_library_of_another_task():
    done = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
