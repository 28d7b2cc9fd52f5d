"""What the factory learned about the fleet, beside models: signed findings with evidence."""
