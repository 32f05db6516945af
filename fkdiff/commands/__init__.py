"""The commands of `fkdiff`, one module each; heavy imports wait until a command runs."""
