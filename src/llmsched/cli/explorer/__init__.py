"""The page that `llmsched explore` serves: settings, what they give, and a server on loopback."""
