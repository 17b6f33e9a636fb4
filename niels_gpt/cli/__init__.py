"""Command lines: parsers, exit codes, configuration, subcommands and niels-generate."""
