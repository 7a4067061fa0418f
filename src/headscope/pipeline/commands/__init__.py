"""The command line, one file a command: `main` takes the words after the command and returns the exit code."""
