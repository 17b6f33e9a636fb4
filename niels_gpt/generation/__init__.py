"""Generation as methods of a model: many prompts at once, sampled, greedy or by beams, whole or as a stream.

`stepper` moves ragged prompts through any model together, `options` says what is wanted, `sampled` and
`beam` choose tokens, `methods` is what the models inherit, `pretrained` keeps them in a directory.
"""
