"""Settings with which each study has a run of seconds."""

FEW_STEPS = {
    "iteration-head": "--train.steps 4 --train.rows 4 --train.evaluate-every 2 --transfer.steps 2 "
    "--rows 4 --model.width 16 --model.hidden 16 --exact-inputs 120 --parts pairs",
    "contextual-counting": "--train.steps 4 --train.rows 4 --train.evaluate-every 2 --train.warmup 1 --plain.steps 2 "
    "--plain.rows 4 --parts encodings circuits no-begin plain --rows 100 --task.length 12 24 "
    "--model.encoder.width 8 --encoder-hidden 8",
    "safety-finetuning": "--pretrain.steps 4 --pretrain.rows 4 --pretrain.warmup 1 --finetune.steps 3 "
    "--finetune.rows 4 --finetune.warmup 1 --parts standard decay fresh --rows 32 --attack-steps 1 "
    "--relearning-steps 1 --model.width 16 --model.layers 1 --model.heads 2",
    "steering-vectors": "--skill.steps 4 --skill.rows 4 --mixture.steps 2 --mixture.rows 4 --rl.steps 2 --rl.rows 2 "
    "--converged.steps 2 --converged.rows 2 "
    "--samples 2 --adaptive-steps 2 --rows 64 --model.layers 2 --model.width 32 --model.heads 2 --task.length 3 "
    "--task.p 3 --parts combine adaptive family transfer learned separability flag converged --cosines 0.8 "
    "--least-shift 0",
}
"""Flags with which a study has jobs of every kind and finds nothing: its form is there in seconds."""
