"""Read and split the texts of a byte-level run: wikitext, folders of notes, primer dialogues."""

from __future__ import annotations

from niels_gpt.data.primer import DIALOGUE_DELIM, load_primer_text, split_primer_dialogues
from niels_gpt.data.roam import list_roam_paths, list_text_paths, load_texts, split_roam_paths
from niels_gpt.data.wikitext import load_wikitext

__all__ = [
    "DIALOGUE_DELIM",
    "list_roam_paths",
    "list_text_paths",
    "load_primer_text",
    "load_texts",
    "load_wikitext",
    "split_primer_dialogues",
    "split_roam_paths",
]
