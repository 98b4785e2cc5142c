"""Runs drawn as one page that any browser shows, with no server and nothing loaded from elsewhere."""
