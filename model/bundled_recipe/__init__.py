"""What made the bundled model: its sources, persona, augmentation and card."""
