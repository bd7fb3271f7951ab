"""The formats that `llmsched.traces` reads and writes."""
