"""Training: `python -m niels_gpt.train --config configs/primer.json`.

Split by job: `options` the command line, `recipe` the configuration file, `dialogues` texts into
conversations, `batches` conversations into tensors in a fixed order, `objective` the loss, `loop` the steps
with evaluation and checkpoints, `progress` and `bar` what a person sees, `assembly` all of it put together,
`__main__` the command.
Knows nothing of the engine, of sessions, or of how a chat is shown.
"""
