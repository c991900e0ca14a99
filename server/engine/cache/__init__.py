"""Cache memory of sequences: KV blocks, recurrent states, prefix cache."""
