"""What is known about judges from their verdicts: accuracy, position, style, circles, and what several of them share."""
