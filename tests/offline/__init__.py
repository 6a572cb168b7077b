"""Shows that Whence makes no connection that its operator did not ask for."""
