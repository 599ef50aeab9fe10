"""Commonsense questions with a language model and LoRA: what keeps accuracy once 30% of the merged weights are removed?

The defaults are the setting of the WCR paper (arXiv 2511.14282, section 5.1 and table 6) for Qwen2.5-1.5B. Its other
model is --model base=meta-llama/Llama-3.2-1B; a folder with a checkpoint works too. The text at hand lacks the learning
rate; 3e-4 is that of LLM-Adapters (arXiv 2304.01933), as are records and prompts: --data-root takes its clone.

GPU memory: 6.8 GB to train Qwen2.5-1.5B (5.3 GB LLaMA-3.2-1B) and 41 GB (32 GB) at the peak of an evaluation, before
activations; --task-arg base_dtype=bfloat16, --task-arg gradient_checkpointing=true and --accumulate 16 save some.
Without any download or GPU: --model base=tiny-qwen2 or tiny-llama, random and small; accuracy is near chance then.
"""

from search_spaces import lora
from service import Sweep
from trainables.config import TrialConfig

SWEEP = Sweep(
    name="commonsense_lora",
    trial=TrialConfig(
        task="lora",
        task_args={"r": 32, "alpha": 64, "dropout": 0.05, "regularize": "factors"},
        dataset="commonsense",
        data={"cutoff": 256},
        architecture="causal_lm",
        model={"base": "Qwen/Qwen2.5-1.5B"},
        scope="uniform",
        target_sparsity=0.3,
        sparsities=(0.2,),
        max_epochs=2,
        batch_size=64,
        accumulate=4,
        opt={"lr": 3e-4, "weight_decay": 0.0},
        lr_schedule="linear_warmup",
        lr_sched={"num_warmup_steps": 100},
    ),
    search=lora.SEARCH_SPACE,
    num_trials=4,
)

if __name__ == "__main__":
    SWEEP.main()
