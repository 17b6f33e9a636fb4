"""Train models: `python -m niels_gpt.train --config configs/smoke.json`.

`options` is the command line and `config` the configuration file. `dialogues` and `dialogue_data` make
batches of conversations, `window_data` of streams of bytes; `batch` is the value they share and `data_setup`
chooses between them. `rng` derives seeds, `loss` and `optimizer` define a step, `loop` runs the steps,
`distributed` spreads them over processes, `resume` starts from a checkpoint. `progress` and `metrics` report,
`build` assembles a run and `__main__` is the command. `evaluate`, `plot` and `strip_checkpoint` are commands
that use the result.
"""
