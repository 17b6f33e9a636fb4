"""Models as Hugging Face folders: `python -m niels_gpt.model.hf export CKPT DIR` and `import DIR CKPT`.

Split by job: `forms` which configs map to which architecture and back, `weights` the names and the order of
rows, `text` tokenizer and chat template, `export` and `load` the two directions. Needs nothing of
`transformers`: the files are JSON and safetensors.
"""
