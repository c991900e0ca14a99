"""What the experts of a model do with texts of several tasks and languages."""
