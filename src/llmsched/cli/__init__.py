"""The command line (extra `cli`): a file for each command, and what they share."""
