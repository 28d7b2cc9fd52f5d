"""What `scripts/prove.py` measures, by kind: demos, benches, tests. Each part gives rows of docs/proof.md."""
