"""The sandbox in which a checkpoint's chat template is rendered: bounded time, memory and access."""
