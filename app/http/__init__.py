"""HTTP around the routes: server, middleware, uploads, error answers and documentation page."""
