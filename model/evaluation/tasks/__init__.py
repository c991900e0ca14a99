"""What is evaluated: one kind of task a file."""
