"""The parts of a block, written once over flat tokens; what joins tokens of a sequence is asked of the batch."""
