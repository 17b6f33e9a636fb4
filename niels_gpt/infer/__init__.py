"""The import path of `niels_gpt.infer.kv_cache`, which users of the original project call."""
