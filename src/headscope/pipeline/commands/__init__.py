"""The commands of the command line, one file each: `main(arguments) -> exit code`."""
