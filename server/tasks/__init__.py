"""What the task endpoints do, callable without HTTP."""
