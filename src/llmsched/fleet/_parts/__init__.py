"""The parts of the compiled fleet: what `_fleet.pyx` inlines. No Python runs here."""
