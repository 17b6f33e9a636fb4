"""The commands that a line beginning with a slash calls, one file per subject."""
