"""Write a checkpoint as a Hugging Face folder: `python -m niels_gpt.model.hf export CKPT DIR`.

Split by job: `forms` which configs map to which architecture, `weights` the names and the order of rows,
`text` tokenizer and chat template. Needs nothing of `transformers`: the files are JSON and safetensors.
`niels-chat --ckpt DIR` opens such folders, ours and those of other projects (`niels_gpt.model.families`).
"""
