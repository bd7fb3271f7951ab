"""Many replicas behind a router: who takes which request, and what becomes of them."""
