"""The sub-commands of `routelm`, one file each. Nothing heavy is imported before a command runs."""
