"""One module per subcommand, each with ``configure(parser)`` and ``execute(arguments) -> exit status``."""
