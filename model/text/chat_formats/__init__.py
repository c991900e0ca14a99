"""How checkpoints write reasoning and tool calls, as data, and the router that cuts their answers into fields."""
