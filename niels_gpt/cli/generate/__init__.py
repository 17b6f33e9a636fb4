"""`python -m niels_gpt.generate_cli`, `niels-generate`: continuations of many prompts, together, in files.

`options` reads the flags, `prompts` what is to be continued, `journal` keeps an output that can be resumed,
`replies` runs the engine, `command` puts them together.
"""
