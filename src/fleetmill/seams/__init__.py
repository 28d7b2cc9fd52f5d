"""Where the world begins: one small Protocol each, the embedded default, a fake."""
