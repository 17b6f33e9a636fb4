"""`niels-generate`: answer or continue many prompts, together, in files that can be resumed and sharded.

`options` parses the flags, `input_file` reads prompts, `prompts` and `openai_batch` parse them, `plan` says
how they are continued, `model` runs them, `journal` writes an output that can be resumed, `shards` merges the
outputs of shards, and `command` runs it all.
"""
