"""Generate text: the Python API over models and decoders.

`language_model` is the API, over `sampled` and `beam`, which drive a torch model through `batched_decoder`;
`options` checks its keywords. `batch` generates many replies with the decoders of the chat. `reference` has
the original project's functions and `functions` those of the text generation guide.
"""
