import subprocess
import sys

HEAVY = {"transformers", "peft", "segmentation_models_pytorch", "timm", "tokenizers", "huggingface_hub"}

TRIAL = f"""
import sys
import service.driver, sweeps.digits
from service.search.space import make_arms, make_config
from trainables.config import TrialConfig
from trainables.loop import load_task, train
sweep = sweeps.digits.SWEEP
arm = make_arms(sweep)[-1]
config = make_config(sweep, arm.choices, arm.initial_point, max_epochs=1, train_size=64)
train(load_task(config), config)
print(sorted({HEAVY!r} & sys.modules.keys()))
"""


def test_digits_sweep_imports_no_library_of_another_task():
    done = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
