"""Terminal output: rendering, line wrapping, Markdown, tables, a spinner and a picker."""
