"""The parts of the compiled core: data structures and rules that `_core.pyx` inlines. No Python runs here."""
