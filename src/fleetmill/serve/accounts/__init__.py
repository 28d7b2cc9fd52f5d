"""Who may ask for how much, what it came to, and what went where: kept, and provable."""
