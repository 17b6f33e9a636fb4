"""Training: `python -m niels_gpt.train --config configs/smoke.json`.

Split by job: `options` the command line, `recipe` (with `section`, `stream_plan`) the configuration file,
`dialogues` texts into conversations, `batches` conversations into batches, `windows` streams into batches,
`prepare` a plan into either, `batch` the value they share, `seeds` the randomness of a step, `objective`
the loss, `parallel` several processes, `loop` the steps with evaluation and checkpoints, `resume` a
checkpoint as a start, `progress`, `bar` and `metrics` what is seen of it, `device` where it runs,
`assembly` all of it put together, `__main__` the command.
"""
