"""What the screen shows: rendering, line wrapping, Markdown, tables, a spinner, a picker."""
