"""From settings to a listening server."""
