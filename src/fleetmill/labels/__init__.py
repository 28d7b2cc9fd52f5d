"""Labels from outside: what people and tools say was right, brought in and asked for."""
