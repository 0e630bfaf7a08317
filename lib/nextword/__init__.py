"""Next Word: the papers behind ChatGPT, executed."""
