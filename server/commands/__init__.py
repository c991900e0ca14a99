"""The sub-commands of `routelm`, one file each. Heavy imports happen inside the commands, so that help is quick."""
